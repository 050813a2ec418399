"""A GPU through PyCUDA, for software that already lives in a PyCUDA context."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pycuda.driver as cuda

from samus_edge.errors import BackendError
from samus_edge.runtime.backends.gpu.device import (
    CapturedGraph,
    Device,
    DeviceBuffer,
    DeviceEvent,
    DeviceStream,
    GpuInfo,
    PinnedBuffer,
    StreamHandle,
    Way,
    cuda_error,
)

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for


def gpu_infos() -> list[GpuInfo]:
    """Every GPU that this process sees.

    Raises:
        BackendError: if the driver does not start.
    """
    with _errors("start its driver"):
        cuda.init()
        return [_info(index) for index in range(cuda.Device.count())]


class PyCudaDevice(Device):
    """One GPU, in the caller's context where there is one.

    A context that was found current is used and left alone: it is neither popped from the caller's
    thread nor detached. Where there is none, the primary context is retained, and pushed only for
    as long as it is worked in.
    """

    binding = "pycuda"
    errors = (*Device.errors, cuda.Error)

    def __init__(self, index: int | None = None) -> None:
        """Adopt this thread's context, or retain the primary one.

        Args:
            index: Index of the GPU, as CUDA counts those that this process sees; None for that of
                this thread's context, or the first.

        Raises:
            BackendError: if there is no driver or no such GPU, or this thread's context is on
                another.
        """
        with _errors("start its driver"):
            cuda.init()
            adopted = cuda.Context.get_current()
        self._is_adopted = adopted is not None
        if adopted is None:
            number = 0 if index is None else index
            with _errors(f"find GPU {number}"):
                self._context: Any = cuda.Device(number).retain_primary_context()
        else:
            number = _index_of(adopted.get_device())
            if index not in (None, number):
                raise BackendError(
                    f"this thread has a PyCUDA context on GPU {number}, and GPU {index} was asked "
                    "for. Pop it first, or ask for its GPU."
                )
            self._context = adopted
        self.info = _info(number)

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._context is None:
            raise RuntimeError("this GPU was given back. Make another device with find_device().")
        with _errors("make the GPU current"):
            self._context.push()
        try:
            yield
        finally:
            cuda.Context.pop()

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        size = max(size_bytes, 1)
        with _errors(f"allocate {size} bytes of the GPU"):
            memory = cuda.mem_alloc(size)
        return DeviceBuffer(self, memory, _free, int(memory), size_bytes)

    def allocate_pinned(self, size_bytes: int) -> PinnedBuffer:
        size, flags = max(size_bytes, 1), cuda.host_alloc_flags.PORTABLE
        with _errors(f"allocate {size} bytes of pinned memory"):
            array = cuda.pagelocked_empty(size, np.uint8, mem_flags=flags)
        return PinnedBuffer(self, array.base, _free, int(array.ctypes.data), size_bytes)

    def create_stream(self) -> DeviceStream:
        with _errors("make a stream"):
            stream = cuda.Stream(_NON_BLOCKING)
        return DeviceStream(self, stream, _forget, int(stream.handle))

    def create_event(self) -> DeviceEvent:
        with _errors("make an event"):
            return DeviceEvent(self, cuda.Event(), _forget)

    def _capture(self, stream: DeviceStream, work: Callable[[], None]) -> CapturedGraph:
        raise BackendError(
            "PyCUDA cannot capture CUDA graphs. With cuda-python launches are faster: "
            "pip install 'samus-edge[cuda]'"
        )

    def free_memory_bytes(self) -> int:
        with _errors("look at the GPU's memory"):
            free, _ = cuda.mem_get_info()
        return int(free)

    def close(self) -> None:
        context, self._context = self._context, None
        if context is not None and not self._is_adopted:
            with suppress(cuda.Error):
                context.detach()
                _pop_left_over()

    def _copy(
        self, way: Way, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        with _errors(f"copy {size_bytes} bytes {way.value}"):
            if way is Way.TO_DEVICE:
                cuda.memcpy_htod_async(destination, _host(source, size_bytes), stream.value)
            elif way is Way.TO_HOST:
                cuda.memcpy_dtoh_async(_host(destination, size_bytes), source, stream.value)
            else:
                cuda.memcpy_dtod_async(destination, source, size_bytes, stream.value)

    def _synchronize(self) -> None:
        with _errors("finish its work"):
            cuda.Context.synchronize()

    def _synchronize_stream(self, stream: Any) -> None:
        with _errors("finish its work"):
            stream.synchronize()

    def _record(self, event: Any, stream: StreamHandle) -> None:
        with _errors("record an event"):
            if isinstance(stream, DeviceStream):
                event.record(stream.value)
            else:  # someone else's, which PyCUDA has no object for
                cuda.Context.synchronize()
                event.record()

    def _synchronize_event(self, event: Any) -> None:
        with _errors("finish its work"):
            event.synchronize()

    def _milliseconds(self, start: Any, end: Any) -> float:
        with _errors("time events"):
            return float(end.time_since(start))

    def _launch(self, graph: Any, stream: DeviceStream) -> None:
        raise NotImplementedError  # nothing was captured


def _free(memory: Any) -> None:
    memory.free()


def _forget(value: Any) -> None:
    """Streams and events have no function that frees them; their destructors do."""


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Raise PyCUDA's errors as ours."""
    try:
        yield
    except cuda.MemoryError as err:
        raise cuda_error(what, "CUDA_ERROR_OUT_OF_MEMORY") from err
    except cuda.LaunchError as err:
        raise cuda_error(what, "CUDA_ERROR_LAUNCH_FAILED") from err
    except cuda.Error as err:
        raise cuda_error(what, str(err)) from err


def _host(address: int, size_bytes: int) -> Any:
    """Memory of the host as a Python buffer."""
    return (ctypes.c_uint8 * size_bytes).from_address(address)


def _pop_left_over() -> None:
    """PyCUDA pushes a primary context to detach it, and leaves it on the thread's stack."""
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _index_of(device: Any) -> int:
    return next(index for index in range(cuda.Device.count()) if cuda.Device(index) == device)


def _info(index: int) -> GpuInfo:
    with _errors(f"describe GPU {index}"):
        device = cuda.Device(index)
        kinds = cuda.device_attribute
        version = cuda.get_driver_version()
        major, minor = device.compute_capability()
        return GpuInfo(
            index=index,
            name=device.name(),
            compute_capability=f"{major}.{minor}",
            total_memory_bytes=int(device.total_memory()),
            driver_version=f"{version // 1000}.{version % 1000 // 10}",
            multiprocessors=int(device.get_attribute(kinds.MULTIPROCESSOR_COUNT)),
            clock_khz=int(device.get_attribute(kinds.CLOCK_RATE)),
        )
