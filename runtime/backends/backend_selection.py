"""From a backend's name to a backend."""

import logging
from collections.abc import Sequence

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.backends.backend import Backend

__all__ = [
    "AUTO_ORDER",
    "BACKENDS",
    "MAX_THREADS",
    "backend_order",
    "check_backend",
    "check_threads",
    "say_choice",
    "select_backend",
]


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


def backend_order(name: str) -> tuple[str, ...]:
    """The backends to try for a name, in order.

    Raises:
        BadArgumentError: if the name is unknown.
    """
    check_backend(name)
    return AUTO_ORDER if name == "auto" else (name,)


def select_backend(name: str, threads: int | None = None, *, build_missing: bool = True) -> Backend:
    """The backend of that name.

    Args:
        name: "onnxruntime" (CPU), "onnxruntime-cuda" or "onnxruntime-tensorrt" (its execution
            providers), "openvino", or "tensorrt".
        threads: CPU threads that compute one graph, 1 to 256; None lets the backend choose.
        build_missing: Whether TensorRT builds engines that its cache lacks, which takes minutes,
            and OpenVINO is compared with ONNX Runtime where it was not yet, which takes seconds.

    Raises:
        BadArgumentError: if the name is unknown or threads is out of range.
        TypeError: if threads is not an integer.
        BackendError: if it is not there; says how to get it.
    """
    check_backend(name)
    check_threads(threads)
    # Here, so that importing the runtime does not load the engine.
    if name == "tensorrt":
        from samus_edge.runtime.backends.tensorrt.tensorrt_backend import (
            TensorRTBackend,
            TensorRTOptions,
        )

        return TensorRTBackend(TensorRTOptions(build_missing=build_missing))
    if name == "openvino":
        from samus_edge.runtime.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend(threads, build_missing=build_missing)
    from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(threads, name=name)


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
