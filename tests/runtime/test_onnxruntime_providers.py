"""Execution providers and their options."""

from pathlib import Path

import pytest

from samus_edge.errors import BackendError
from samus_edge.runtime import onnxruntime_backend
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.onnxruntime_providers import provider_list

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


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
