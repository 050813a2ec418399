"""From a backend's name to a backend."""

import logging
import re
from collections.abc import Sequence

from samus_edge.errors import BackendError, BadArgumentError
from samus_edge.runtime.backends.backend import Backend
from samus_edge.runtime.backends.gpu.device import has_nvidia_driver

_logger = logging.getLogger(__name__)
_said: set[str] = set()


def say_choice(chosen: Backend, passed_over: Sequence[str]) -> None:
    """Say it at the level INFO, the same thing once in a process.

    Args:
        chosen: The backend that computes.
        passed_over: The backends tried before it, each with its reason.
    """
    message = f"backend auto: {chosen.name} on {chosen.device}"
    if passed_over:
        message += f"; not {'; not '.join(passed_over)}"
    if message not in _said:
        _said.add(message)
        _logger.info("%s", message)


# A larger number is a slip, and would only exhaust the machine.
MAX_THREADS = 256
AUTO_ORDER = ("tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime")
"""What "auto" tries: the fastest first."""

BACKENDS = (
    *("auto", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt"),
    *("openvino", "tensorrt"),
)


# What each computes on; the number is of a GPU.
_ON_CUDA = re.compile(r"(?:cuda(?::(\d+))?|(\d+))")
_DEVICES = {
    "tensorrt": _ON_CUDA,
    "onnxruntime-cuda": _ON_CUDA,
    "onnxruntime-tensorrt": _ON_CUDA,
    "openvino": re.compile(r"cpu|npu|gpu(\.\d+)?"),
    "onnxruntime": re.compile(r"cpu"),
}


def backend_order(name: str, device: str | int | None = None) -> tuple[str, ...]:
    """The backends to try for a name, in order: those that compute on the device, if one is named.

    Raises:
        BadArgumentError: if the name is unknown, or does not compute on the device.
        TypeError: if the device is neither a name nor a number.
    """
    check_backend(name)
    order = AUTO_ORDER if name == "auto" else (name,)
    if device is None:
        return order
    if isinstance(device, bool) or not isinstance(device, (str, int)):
        raise TypeError(f"device must be a name or the number of a GPU, got {device!r}.")
    taking = tuple(each for each in order if _DEVICES[each].fullmatch(str(device).lower()))
    if not taking:
        raise BadArgumentError(
            f"backend {name} does not compute on {device!r}. A device is cuda, cuda:1 or 1 "
            "(TensorRT, ONNX Runtime on CUDA), cpu, gpu, gpu.1 or npu (OpenVINO)."
        )
    return taking


def gpu_index(device: str | int | None) -> int | None:
    """The number of a CUDA device; None where none is named."""
    found = _ON_CUDA.fullmatch(str(device).lower())
    number = None if found is None else found[1] or found[2]
    return None if number is None else int(number)


def select_backend(
    name: str,
    threads: int | None = None,
    *,
    device: str | int | None = None,
    build_missing: bool = True,
) -> Backend:
    """The backend of that name.

    Args:
        name: "onnxruntime" (CPU), "onnxruntime-cuda" or "onnxruntime-tensorrt" (its execution
            providers), "openvino", or "tensorrt".
        threads: CPU threads that compute one graph, 1 to 256; None lets the backend choose.
        device: What it computes on, see `Segmenter.load`; None lets the backend choose.
        build_missing: Whether TensorRT builds engines that its cache lacks, which takes minutes,
            and OpenVINO is compared with ONNX Runtime where it was not yet, which takes seconds.

    Raises:
        BadArgumentError: if the name is unknown, does not compute on the device, or threads is out
            of range.
        TypeError: if threads is not an integer.
        BackendError: if it is not there; says how to get it.
    """
    backend_order(name, device)
    check_threads(threads)
    index = gpu_index(device)
    # Here, so that importing the runtime does not load the engine.
    if name == "tensorrt":
        from samus_edge.runtime.backends.tensorrt.tensorrt_backend import (
            TensorRTBackend,
            TensorRTOptions,
        )

        return TensorRTBackend(TensorRTOptions(device_index=index, build_missing=build_missing))
    if name == "openvino":
        from samus_edge.runtime.backends.openvino_backend import OpenVinoBackend

        wanted = "CPU" if device is None else str(device)
        return OpenVinoBackend(threads, device=wanted, build_missing=build_missing)
    if name == "onnxruntime-cuda" and not (build_missing or has_nvidia_driver()):
        # "auto" may yet take OpenVINO, and then ONNX Runtime is not loaded at all.
        raise BackendError("there is no NVIDIA driver")
    from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(threads, name=name, device_index=index or 0)


def check_backend(name: str) -> None:
    """Refuse an unknown backend.

    Raises:
        BadArgumentError: if it is not one of `BACKENDS`.
    """
    if name not in BACKENDS:
        raise BadArgumentError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}.")


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that no backend can use.

    Raises:
        TypeError: if it is neither None nor an integer.
        BadArgumentError: if it is less than 1 or more than `MAX_THREADS`.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an integer or None, got {threads!r}.")
    if not 1 <= threads <= MAX_THREADS:
        raise BadArgumentError(
            f"threads must be from 1 to {MAX_THREADS}, got {threads}. Leave it out for all cores."
        )
