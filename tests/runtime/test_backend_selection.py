"""Backends by name."""

import logging

import pytest

from samus_edge.errors import BackendError
from samus_edge.runtime.backend_selection import select_backend


@pytest.mark.parametrize("name", ["auto", "onnxruntime"])
def test_the_cpu_is_there_under_both_names(name: str) -> None:
    backend = select_backend(name, threads=1)
    assert (backend.name, backend.device) == ("onnxruntime", "CPUExecutionProvider")
    assert backend.threads == 1


def test_auto_says_once_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="samus_edge"):
        select_backend("auto", threads=1)
    assert [record.getMessage() for record in caplog.records] == [
        "backend auto: onnxruntime on CPUExecutionProvider"
    ]


def test_tensorrt_by_name_says_how_to_get_it() -> None:
    with pytest.raises(BackendError, match=r"pip install --upgrade 'samus-edge\[tensorrt\]'"):
        select_backend("tensorrt")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="one of auto, onnxruntime, tensorrt, got 'cuda'"):
        select_backend("cuda")


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_threads_out_of_range_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be from 1 to 256, got {threads}"):
        select_backend("auto", threads)


@pytest.mark.parametrize("threads", [1.0, "2", True])
def test_threads_of_another_type_are_refused(threads: object) -> None:
    with pytest.raises(TypeError, match="threads must be an integer or None, got"):
        select_backend("auto", threads)  # type: ignore[arg-type]  # what the test is about
