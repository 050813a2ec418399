"""A GPU through PyCUDA, for software that already lives in a PyCUDA context."""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pycuda.driver as cuda

from samus_edge.errors import BackendError
from samus_edge.runtime.backends.gpu.device import (
    CapturedGraph,
    DeviceBuffer,
    DeviceEvent,
    DeviceStream,
    GpuInfo,
    PinnedBuffer,
    StreamHandle,
    cuda_error,
)

__all__ = ["PyCudaDevice", "gpu_infos"]

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for


def gpu_infos() -> list[GpuInfo]:
    """Every GPU that this process sees.

    Raises:
        BackendError: if the driver does not start.
    """
    with _errors("start its driver"):
        cuda.init()
        return [_info(index) for index in range(cuda.Device.count())]


class PyCudaDevice:
    """One GPU, in the caller's context where there is one.

    A context that was found current is used and left alone: it is neither popped from the caller's
    thread nor detached. Where there is none, the primary context is retained, and pushed only for
    as long as it is worked in.
    """

    def __init__(self, index: int | None = None) -> None:
        """Adopt this thread's context, or retain the primary one.

        Args:
            index: of the GPU, as CUDA counts those that this process sees; None for that of this
                thread's context, or the first.

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
        self._info = _info(number)

    @property
    def binding(self) -> str:
        """ "pycuda"."""
        return "pycuda"

    @property
    def info(self) -> GpuInfo:
        """Which GPU it is."""
        return self._info

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device current in this thread; see `Device.current`."""
        if self._context is None:
            raise RuntimeError("this GPU was given back. Make another device with find_device().")
        with _errors("make the GPU current"):
            self._context.push()
        try:
            yield
        finally:
            cuda.Context.pop()

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        """Memory of the GPU; see `Device.allocate`."""
        size = max(size_bytes, 1)
        with _errors(f"allocate {size} bytes of the GPU"):
            return _Buffer(self, cuda.mem_alloc(size), size_bytes)

    def allocate_pinned(self, size_bytes: int) -> PinnedBuffer:
        """Pinned memory of the host; see `Device.allocate_pinned`."""
        size = max(size_bytes, 1)
        flags = cuda.host_alloc_flags.PORTABLE
        with _errors(f"allocate {size} bytes of pinned memory"):
            return _Pinned(self, cuda.pagelocked_empty(size, np.uint8, mem_flags=flags), size_bytes)

    def create_stream(self) -> DeviceStream:
        """A stream; see `Device.create_stream`."""
        with _errors("make a stream"):
            return _Stream(self, cuda.Stream(_NON_BLOCKING))

    def create_event(self) -> DeviceEvent:
        """An event; see `Device.create_event`."""
        with _errors("make an event"):
            return _Event(self, cuda.Event())

    def copy_to_device(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy from the host; see `Device.copy_to_device`."""
        with _errors(f"copy {size_bytes} bytes to the GPU"):
            cuda.memcpy_htod_async(destination, _host(source, size_bytes), _own(stream))

    def copy_to_host(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy to the host; see `Device.copy_to_host`."""
        with _errors(f"copy {size_bytes} bytes from the GPU"):
            cuda.memcpy_dtoh_async(_host(destination, size_bytes), source, _own(stream))

    def copy_on_device(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy within the GPU; see `Device.copy_on_device`."""
        with _errors(f"copy {size_bytes} bytes within the GPU"):
            cuda.memcpy_dtod_async(destination, source, size_bytes, _own(stream))

    def capture(self, stream: DeviceStream, work: Callable[[], None]) -> CapturedGraph:
        """Not possible: PyCUDA has no CUDA graphs.

        Raises:
            BackendError: always.
        """
        raise BackendError(
            "PyCUDA cannot capture CUDA graphs. With cuda-python launches are faster: "
            "pip install 'samus-edge[cuda]'"
        )

    def free_memory_bytes(self) -> int:
        """Memory that nobody uses; see `Device.free_memory_bytes`."""
        with _errors("look at the GPU's memory"):
            free, _ = cuda.mem_get_info()
        return int(free)

    def close(self) -> None:
        """Give a retained primary context back; a second call does nothing."""
        context, self._context = self._context, None
        if context is not None and not self._is_adopted:
            with suppress(cuda.Error):
                context.detach()
                _pop_left_over()


class _Owned:
    """Something of the driver that is given back once: by name, or when no longer referenced."""

    def __init__(self, device: PyCudaDevice, value: Any) -> None:
        self._device = device
        self._value: Any = value
        self._lock = threading.Lock()

    def _give_back(self, release: Callable[[Any], None]) -> None:
        with self._lock:
            value, self._value = self._value, None
        if value is not None:
            # A lost GPU has taken everything with it, and a closed one has given it back.
            with suppress(BackendError, RuntimeError, cuda.Error), self._device.current():
                release(value)
                del value  # where there is no function to free it, its destructor does


class _Buffer(_Owned):
    def __init__(self, device: PyCudaDevice, memory: Any, size_bytes: int) -> None:
        super().__init__(device, memory)
        self.address = int(memory)
        self.size_bytes = size_bytes

    def free(self) -> None:
        self._give_back(lambda memory: memory.free())

    def __del__(self) -> None:
        self.free()


class _Pinned(_Owned):
    def __init__(self, device: PyCudaDevice, memory: Any, size_bytes: int) -> None:
        super().__init__(device, memory.base)
        self.address = int(memory.ctypes.data)
        array = (ctypes.c_uint8 * len(memory)).from_address(self.address)
        self.array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(array)[:size_bytes]

    def free(self) -> None:
        self._give_back(lambda memory: memory.free())

    def __del__(self) -> None:
        self.free()


class _Stream(_Owned):
    def __init__(self, device: PyCudaDevice, stream: Any) -> None:
        super().__init__(device, stream)
        self.handle = int(stream.handle)

    @property
    def stream(self) -> Any:
        """PyCUDA's."""
        return self._value

    def synchronize(self) -> None:
        with _errors("finish its work"):
            self._value.synchronize()

    def close(self) -> None:
        self._give_back(lambda stream: None)

    def __del__(self) -> None:
        self.close()


class _Event(_Owned):
    def record(self, stream: StreamHandle) -> None:
        with _errors("record an event"):
            if isinstance(stream, _Stream):
                self._value.record(stream.stream)
            else:  # someone else's, which PyCUDA has no object for
                cuda.Context.synchronize()
                self._value.record()

    def synchronize(self) -> None:
        with _errors("finish its work"):
            self._value.synchronize()

    def milliseconds_since(self, earlier: DeviceEvent) -> float:
        if not isinstance(earlier, _Event):
            raise TypeError(f"earlier must be an event of the same device, got {earlier!r}.")
        self.synchronize()
        with _errors("time events"):
            return float(self._value.time_since(earlier._value))

    def close(self) -> None:
        self._give_back(lambda event: None)

    def __del__(self) -> None:
        self.close()


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


def _own(stream: DeviceStream) -> Any:
    if not isinstance(stream, _Stream):
        raise TypeError(f"stream must be one of this device, got {stream!r}.")
    return stream.stream


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
