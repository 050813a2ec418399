"""Finding the GPU, through whichever binding of CUDA is there."""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from samus_edge.errors import BackendError, BadArgumentError
from samus_edge.runtime.backends.gpu.device import Device, GpuInfo

BINDINGS = ("cuda-python", "pycuda")

_MODULES = {"cuda-python": "cuda.bindings.driver", "pycuda": "pycuda.driver"}
_HOW_TO_INSTALL = {
    "cuda-python": "pip install 'samus-edge[cuda]'",
    "pycuda": "pip install 'samus-edge[pycuda]' (needs the CUDA toolkit)",
}


def find_device(binding: str = "auto", index: int | None = None) -> Device:
    """The GPU to compute on.

    Args:
        binding: "cuda-python", "pycuda", or "auto": PyCUDA if this thread is in a PyCUDA context,
            else cuda-python, else PyCUDA.
        index: Index of the GPU, as CUDA counts those that this process sees (CUDA_VISIBLE_DEVICES);
            None for that of the thread's PyCUDA context, or the first.

    Raises:
        BadArgumentError: if the binding is unknown or the index negative.
        BackendError: if the binding is not installed, or there is no driver or no such GPU.
    """
    if index is not None and index < 0:
        raise BadArgumentError(f"index must be 0 or more, got {index}.")
    chosen = _chosen(binding)

    def make() -> Device:
        if chosen == "pycuda":
            from samus_edge.runtime.backends.gpu.pycuda_device import PyCudaDevice

            return PyCudaDevice(index)
        from samus_edge.runtime.backends.gpu.cuda_python_device import CudaPythonDevice

        return CudaPythonDevice(0 if index is None else index)

    device: Device = _loaded(chosen, make)
    return device


def list_gpus(binding: str = "auto") -> list[GpuInfo]:
    """Every GPU that this process sees; arguments and errors as `find_device`."""
    chosen = _chosen(binding)

    def make() -> list[GpuInfo]:
        if chosen == "pycuda":
            from samus_edge.runtime.backends.gpu import pycuda_device

            return pycuda_device.gpu_infos()
        from samus_edge.runtime.backends.gpu import cuda_python_device

        return cuda_python_device.gpu_infos()

    infos: list[GpuInfo] = _loaded(chosen, make)
    return infos


def _chosen(binding: str) -> str:
    if binding not in ("auto", *BINDINGS):
        raise BadArgumentError(
            f"binding must be one of auto, {', '.join(BINDINGS)}, got {binding!r}."
        )
    if binding != "auto":
        if not _is_installed(binding):
            raise BackendError(f"{binding} is not installed. {_HOW_TO_INSTALL[binding]}")
        return binding
    pycuda_driver = sys.modules.get(_MODULES["pycuda"])
    if pycuda_driver is not None and _is_in_context(pycuda_driver):
        return "pycuda"
    for candidate in BINDINGS:
        if _is_installed(candidate):
            return candidate
    raise BackendError(
        "neither cuda-python nor PyCUDA is installed, one of which handles the GPU's memory. "
        f"{_HOW_TO_INSTALL['cuda-python']}"
    )


def _is_in_context(pycuda_driver: Any) -> bool:
    try:
        return pycuda_driver.Context.get_current() is not None
    except pycuda_driver.Error:  # not initialised
        return False


def _is_installed(binding: str) -> bool:
    try:
        return importlib.util.find_spec(_MODULES[binding]) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def _loaded(binding: str, make: Callable[[], Any]) -> Any:
    """What `make` gives; the errors of a binding that finds no driver are ours."""
    try:
        return make()
    except BackendError:
        raise
    # cuda-python raises a RuntimeError of its own where there is no libcuda; PyCUDA cannot be
    # imported.
    except (ImportError, OSError, RuntimeError) as err:
        reason = " ".join(str(err).split())
        raise BackendError(
            f"{binding} finds no NVIDIA driver that it can use ({reason}). Install the driver, or "
            "on a Jetson flash JetPack; in a container, start it with --gpus all or --runtime "
            "nvidia. samus-edge doctor says what is there."
        ) from err
