"""ONNX Runtime's execution providers: on what it computes, and with which settings."""

from dataclasses import dataclass
from pathlib import Path

from samus_edge.errors import BackendError
from samus_edge.runtime.tensorrt.engine_cache_folder import default_cache_folder

__all__ = ["CPU_PROVIDER", "PROVIDERS", "Provider", "provider_list"]

CPU_PROVIDER = "CPUExecutionProvider"

_HOW_TO_GET_GPU = (
    "On x86-64: pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]' (the two "
    "packages are the same module, and hide each other). On a Jetson: the wheel for its JetPack from "
    "NVIDIA's Jetson AI Lab index"
)


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: ONNX Runtime's.
        title: for people.
        how_to_get: what to install where ONNX Runtime has it not.
        needs: what it loads when it starts.
    """

    name: str
    title: str
    how_to_get: str
    needs: str


PROVIDERS = {
    "onnxruntime": Provider(
        CPU_PROVIDER, "the CPU", "Install it again: pip install onnxruntime", "nothing"
    ),
    "onnxruntime-cuda": Provider(
        "CUDAExecutionProvider",
        "CUDA",
        _HOW_TO_GET_GPU,
        "the NVIDIA driver, and CUDA and cuDNN of the versions that it was built for",
    ),
    "onnxruntime-tensorrt": Provider(
        "TensorrtExecutionProvider",
        "TensorRT",
        _HOW_TO_GET_GPU,
        "the NVIDIA driver, CUDA, cuDNN and TensorRT of the versions that it was built for",
    ),
}
"""By the name of the backend."""


def provider_list(
    backend: str, available: list[str], *, device_index: int = 0, cache: Path | None = None
) -> list[tuple[str, dict[str, str]]]:
    """The providers and their options, as `InferenceSession` takes them.

    Args:
        backend: a key of `PROVIDERS`.
        available: what `onnxruntime.get_available_providers` gives.
        device_index: of the GPU.
        cache: folder of the TensorRT provider's engines; None for one in the default cache.

    Raises:
        BackendError: if this ONNX Runtime has not the provider; says how to get it.
    """
    provider = PROVIDERS[backend]
    if provider.name not in available:
        raise BackendError(
            f"this ONNX Runtime has no execution provider for {provider.title} ({provider.name}); it has "
            f"{', '.join(available)}. {provider.how_to_get}."
        )
    cpu: tuple[str, dict[str, str]] = (
        CPU_PROVIDER,
        {},
    )  # for what a GPU's provider has no kernel for
    index = str(device_index)
    cuda_options = {
        "device_id": index,
        "arena_extend_strategy": "kSameAsRequested",  # not the next power of two
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE may choose another one at every start
        "use_tf32": "0",  # precision is the graph's
    }
    if backend == "onnxruntime":
        return [cpu]
    if backend == "onnxruntime-cuda":
        return [(provider.name, cuda_options), cpu]
    folder = str(default_cache_folder() / "onnxruntime" if cache is None else cache)
    tensorrt_options = {
        "device_id": index,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
        "trt_fp16_enable": "0",  # precision is the graph's
        "trt_int8_enable": "0",
    }
    return [(provider.name, tensorrt_options), ("CUDAExecutionProvider", cuda_options), cpu]
