"""Execution providers and their options."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime.backends import onnxruntime_backend
from samus_edge.runtime.backends.backend import default_threads
from samus_edge.runtime.backends.onnxruntime_backend import (
    OnnxRuntimeBackend,
    provider_list,
)
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import TensorSpec

REPOSITORY = Path(__file__).parents[3]
ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_telemetry_is_off_before_onnxruntime_is_loaded(before: str | None, after: str) -> None:
    """ONNX Runtime reads the variable when it is imported; a setting of the user's stays."""
    script = (
        "import os, sys\n"
        "seen = []\n"
        "class Spy:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            seen.append(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Spy())\n"
        "from samus_edge.runtime.backends.backend_selection import select_backend\n"
        "select_backend('onnxruntime')\n"
        "print(seen)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    if before is not None:
        environment["ORT_DISABLE_TELEMETRY"] = before
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[{after!r}]"


def test_onnxruntime_is_imported_in_one_module() -> None:
    """Else it may be loaded before telemetry is turned off."""
    importing = re.compile(r"^\s*(?:import|from) onnxruntime\b(?!\.quantization)", re.MULTILINE)
    folders = ("benchmarks", "calibration", "examples", "export", "runtime", "samus_edge")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    found = {path.name for path in files if importing.search(path.read_text(encoding="utf-8"))}
    assert found == {"onnxruntime_backend.py"}


def test_the_cpu_is_alone() -> None:
    assert provider_list("onnxruntime", ALL) == [("CPUExecutionProvider", {})]


def test_cuda_computes_in_the_graphs_precision_and_leaves_the_rest_to_the_cpu() -> None:
    (name, options), cpu = provider_list("onnxruntime-cuda", ALL, device_index=1)
    assert (name, options["device_id"], options["use_tf32"]) == ("CUDAExecutionProvider", "1", "0")
    assert cpu == ("CPUExecutionProvider", {})


def test_tensorrt_keeps_its_engines(tmp_path: Path) -> None:
    (name, options), (cuda, _), _ = provider_list("onnxruntime-tensorrt", ALL, cache=tmp_path)
    assert (name, cuda) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("0", "0")


def test_a_missing_provider_says_what_is_there_and_how_to_get_it() -> None:
    with pytest.raises(
        BackendError, match=r"\(CUDAExecutionProvider\); it has CPUExecutionProvider"
    ):
        provider_list("onnxruntime-cuda", ["CPUExecutionProvider"])


def test_a_provider_that_does_not_start_is_an_error_not_a_fallback(
    disc_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime goes on with the CPU, and says so only on stderr."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ALL)
    monkeypatch.setattr(
        onnxruntime_backend, "provider_list", lambda *_, **__: [("CPUExecutionProvider", {})]
    )
    monkeypatch.setattr(onnxruntime_backend, "has_nvidia_driver", lambda: True)
    backend = onnxruntime_backend.OnnxRuntimeBackend(1, name="onnxruntime-cuda")
    bundle = Bundle.open(disc_bundle)
    record = bundle.graph_record("image_encoder")
    with pytest.raises(BackendError, match="has the execution provider CUDAExecutionProvider, but"):
        backend.open_graph("image_encoder", bundle.read_graph("image_encoder"), record)


def test_without_a_driver_a_gpu_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would fill stderr with what it cannot load."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ALL)
    monkeypatch.setattr(onnxruntime_backend, "has_nvidia_driver", lambda: False)
    with pytest.raises(BackendError, match="onnxruntime-cuda needs an NVIDIA GPU"):
        onnxruntime_backend.OnnxRuntimeBackend(1, name="onnxruntime-cuda")


def test_a_graph_runs(disc_bundle: Path) -> None:
    bundle = Bundle.open(disc_bundle)
    record = bundle.graph_record("image_encoder")
    session = OnnxRuntimeBackend(1).open_graph(
        "image_encoder", bundle.read_graph("image_encoder"), record
    )
    image = np.full((1, 3, 5), 51, np.uint8)
    outputs = session.run({"image": image})
    assert set(outputs) == {"image_embeddings"}
    # Computed by hand: 51 / 255.
    np.testing.assert_allclose(outputs["image_embeddings"], 0.2, rtol=1e-6)
    assert outputs["image_embeddings"].shape == (1, 256, 32, 32)


def test_wrong_feeds_are_refused(disc_bundle: Path) -> None:
    bundle = Bundle.open(disc_bundle)
    session = OnnxRuntimeBackend(1).open_graph(
        "image_encoder",
        bundle.read_graph("image_encoder"),
        bundle.graph_record("image_encoder"),
    )
    with pytest.raises(ValueError, match=r"got image float32 \(1, 2, 2\), expected image uint8"):
        session.run({"image": np.zeros((1, 2, 2), np.float32)})


def test_a_failure_of_the_engine_names_the_graph(disc_bundle: Path) -> None:
    bundle = Bundle.open(disc_bundle)
    record = bundle.graph_record("mask_decoder")
    session = OnnxRuntimeBackend(1).open_graph(
        "mask_decoder", bundle.read_graph("mask_decoder"), record
    )
    feeds = {
        "image_embeddings": np.zeros((1, 256, 32, 32), np.float32),
        "point_coords": np.zeros((2, 3, 2), np.float32),
        "point_labels": np.zeros((5, 4), np.float32),  # N and P differ from point_coords
        "mask_input": np.zeros((2, 1, 128, 128), np.float32),
        "has_mask_input": np.zeros((2, 1), np.float32),
    }
    with pytest.raises(BackendError, match="failed on graph 'mask_decoder'"):
        session.run(feeds)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07"])
def test_bytes_that_are_no_graph_are_refused(disc_bundle: Path, content: bytes) -> None:
    record = Bundle.open(disc_bundle).graph_record("image_encoder")
    with pytest.raises((BundleError, BackendError), match=r"image_encoder\.onnx"):
        OnnxRuntimeBackend(1).open_graph("image_encoder", content, record)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (TensorSpec("image", "float32", ("B", "H", "W")),),
            r"its input is image uint8 \(B, H, W\), recorded as image float32 \(B, H, W\)",
        ),
        ((TensorSpec("frame", "uint8", ("B", "H", "W")),), "it has no input frame uint8"),
        ((), r"its input image uint8 \(B, H, W\) is not recorded"),
    ],
)
def test_a_graph_that_differs_from_its_record_is_refused(
    disc_bundle: Path, inputs: tuple[TensorSpec, ...], message: str
) -> None:
    bundle = Bundle.open(disc_bundle)
    record = dataclasses.replace(bundle.graph_record("image_encoder"), inputs=inputs)
    with pytest.raises(BundleError, match=message):
        OnnxRuntimeBackend(1).open_graph(
            "image_encoder", bundle.read_graph("image_encoder"), record
        )


def test_default_threads_are_the_usable_cores_at_most_eight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not say which cores a process may use")
    for cores, expected in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert default_threads() == expected
    assert OnnxRuntimeBackend().threads == 8


def test_onnx_runtimes_own_format_is_refused(disc_bundle: Path, tmp_path: Path) -> None:
    """It is no protocol buffers message, so nothing has looked for files that it names."""
    bundle = Bundle.open(disc_bundle)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "encoder.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(
        bundle.read_graph("image_encoder"), options, providers=["CPUExecutionProvider"]
    )
    content = (tmp_path / "encoder.ort").read_bytes()
    assert content[4:8] == b"ORTM"
    record = bundle.graph_record("image_encoder")
    with pytest.raises((BundleError, BackendError), match=r"image_encoder\.onnx"):
        OnnxRuntimeBackend(1).open_graph("image_encoder", content, record)
