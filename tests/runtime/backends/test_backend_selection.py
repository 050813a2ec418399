"""Backends by name, and what "auto" takes."""

import logging
from pathlib import Path
from typing import Any

import pytest

from samus_edge.errors import BackendError
from samus_edge.runtime import Segmenter, segmenter
from samus_edge.runtime.backends import backend_selection as backend_choice
from samus_edge.runtime.backends.backend_selection import backend_order, select_backend
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the start of a process."""
    monkeypatch.setattr(backend_choice, "_said", set())


def test_the_cpu_is_there() -> None:
    backend = select_backend("onnxruntime", threads=1)
    assert (backend.name, backend.device) == ("onnxruntime", "CPUExecutionProvider")
    assert (backend.threads, backend.gpu) == (1, None)


def test_auto_tries_gpus_first() -> None:
    assert backend_order("auto") == ("tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime")
    assert backend_order("tensorrt") == ("tensorrt",)


def test_a_device_leaves_the_backends_that_compute_on_it() -> None:
    on_cuda = ("tensorrt", "onnxruntime-cuda")
    for device in ("cuda", "cuda:1", "CUDA:1", 1, "1"):
        assert backend_order("auto", device) == on_cuda
    assert backend_order("auto", "cpu") == ("openvino", "onnxruntime")
    assert backend_order("auto", "gpu.1") == backend_order("auto", "NPU") == ("openvino",)
    assert backend_order("onnxruntime-tensorrt", "cuda:1") == ("onnxruntime-tensorrt",)


@pytest.mark.parametrize(
    ("backend", "device"),
    [
        ("onnxruntime", "cuda:1"),
        ("tensorrt", "cpu"),
        ("openvino", 1),
        ("auto", "tpu"),
        ("auto", -1),
    ],
)
def test_a_device_that_a_backend_does_not_have_is_refused(backend: str, device: str | int) -> None:
    with pytest.raises(ValueError, match=f"backend {backend} does not compute on {device!r}"):
        Segmenter.load(backend=backend, device=device)
    with pytest.raises(TypeError, match="device must be a name or the number"):
        Segmenter.load(backend=backend, device=True)


def test_auto_says_once_what_it_took_and_why_nothing_else(
    disc_bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def select(name: str, threads: int | None, *, device: None, build_missing: bool) -> Any:
        assert not build_missing
        if name != "onnxruntime":
            raise BackendError(f"no {name}")
        return OnnxRuntimeBackend(threads)

    monkeypatch.setattr(segmenter, "select_backend", select)
    with caplog.at_level(logging.INFO, logger="samus_edge"):
        for _ in range(2):
            Segmenter.load(disc_bundle, threads=1).close()
    assert [record.getMessage() for record in caplog.records] == [
        (
            "backend auto: onnxruntime on CPUExecutionProvider; not tensorrt: no tensorrt; "
            "not onnxruntime-cuda: no onnxruntime-cuda; not openvino: no openvino"
        )
    ]


def test_where_nothing_works_all_reasons_are_given(
    disc_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def select(name: str, threads: int | None, *, device: None, build_missing: bool) -> Any:
        raise BackendError(f"no {name}.")

    monkeypatch.setattr(segmenter, "select_backend", select)
    with pytest.raises(
        BackendError, match=r"no backend works. tensorrt: no tensorrt\. .*no onnxruntime\."
    ):
        Segmenter.load(disc_bundle)


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_provider_that_is_not_there_says_how_to_get_it(name: str) -> None:
    import onnxruntime

    if len(onnxruntime.get_available_providers()) > 2:
        pytest.skip("this ONNX Runtime has execution providers for GPUs")
    with pytest.raises(
        BackendError, match=r"has no execution provider .*'onnxruntime-gpu\[cuda,cudnn\]'"
    ):
        select_backend(name)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of auto, onnxruntime, .*, tensorrt, got 'cuda'"):
        select_backend("cuda")


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_threads_out_of_range_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be from 1 to 256, got {threads}"):
        select_backend("onnxruntime", threads)


@pytest.mark.parametrize("threads", [1.0, "2", True])
def test_threads_of_another_type_are_refused(threads: object) -> None:
    with pytest.raises(TypeError, match="threads must be an integer or None, got"):
        select_backend("onnxruntime", threads)  # type: ignore[arg-type]  # what the test is about
