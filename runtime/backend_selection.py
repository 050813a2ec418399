"""From a backend's name to a backend."""

import logging

from samus_edge import __version__
from samus_edge.errors import BackendError
from samus_edge.runtime.backend import Backend

__all__ = ["BACKENDS", "MAX_THREADS", "check_backend", "check_threads", "select_backend"]

# A larger number is a slip, and would only exhaust the machine.
MAX_THREADS = 256
BACKENDS = ("auto", "onnxruntime", "tensorrt")

_logger = logging.getLogger(__name__)


def select_backend(name: str = "auto", threads: int | None = None) -> Backend:
    """The backend of that name.

    Args:
        name: "onnxruntime" (CPU); "tensorrt"; or "auto", the fastest that is there. This version has
            no TensorRT backend, so "auto" is ONNX Runtime on the CPU.
        threads: CPU threads that compute one graph, 1 to 256; None lets the backend choose.

    Raises:
        ValueError: if the name is unknown or threads is out of range.
        TypeError: if threads is not an integer.
        BackendError: if a backend was asked for by name and is not there; says how to get it.
    """
    check_backend(name)
    check_threads(threads)
    if name == "tensorrt":
        raise BackendError(
            f"the TensorRT backend is not part of samus-edge {__version__}; it comes with a later "
            "version: pip install --upgrade 'samus-edge[tensorrt]'. Until then use the backend "
            "'onnxruntime', or 'auto'."
        )
    # Here, so that importing the runtime does not load the engine.
    from samus_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(threads)
    if name == "auto":
        _logger.info("backend auto: %s on %s", backend.name, backend.device)
    return backend


def check_backend(name: str) -> None:
    """Refuse an unknown backend.

    Raises:
        ValueError: if it is not one of `BACKENDS`.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}.")


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that no backend can use.

    Raises:
        TypeError: if it is neither None nor an integer.
        ValueError: if it is less than 1 or more than `MAX_THREADS`.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an integer or None, got {threads!r}.")
    if not 1 <= threads <= MAX_THREADS:
        raise ValueError(
            f"threads must be from 1 to {MAX_THREADS}, got {threads}. Leave it out for all cores."
        )
