"""A GPU through cuda-python, NVIDIA's own binding of the CUDA driver."""

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver

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

__all__ = ["CudaPythonDevice", "gpu_infos"]


def gpu_infos() -> list[GpuInfo]:
    """Every GPU that this process sees.

    Raises:
        BackendError: if the driver does not start.
    """
    _check("start its driver", driver.cuInit(0))
    count = _check("count the GPUs", driver.cuDeviceGetCount())
    return [_info(index) for index in range(count)]


class CudaPythonDevice:
    """One GPU and its primary context, the one that PyTorch and the CUDA runtime use as well."""

    def __init__(self, index: int = 0) -> None:
        """Retain the GPU's primary context.

        Args:
            index: of the GPU, as CUDA counts those that this process sees.

        Raises:
            BackendError: if there is no driver or no such GPU.
        """
        _check("start its driver", driver.cuInit(0))
        self._device = _check(f"find GPU {index}", driver.cuDeviceGet(index))
        self._info = _info(index)
        self._context = _check(
            "make a context on the GPU", driver.cuDevicePrimaryCtxRetain(self._device)
        )
        self._finalizer = weakref.finalize(self, driver.cuDevicePrimaryCtxRelease, self._device)

    @property
    def binding(self) -> str:
        """ "cuda-python"."""
        return "cuda-python"

    @property
    def info(self) -> GpuInfo:
        """Which GPU it is."""
        return self._info

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device current in this thread; see `Device.current`."""
        if not self._finalizer.alive:
            raise RuntimeError("this GPU was given back. Make another device with find_device().")
        _check("make the GPU current", driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            driver.cuCtxPopCurrent()  # an error here has been raised by what led to it

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        """Memory of the GPU; see `Device.allocate`."""
        size = max(size_bytes, 1)
        what = f"allocate {size} bytes of the GPU"
        return _Buffer(self, int(_check(what, driver.cuMemAlloc(size))), size_bytes)

    def allocate_pinned(self, size_bytes: int) -> PinnedBuffer:
        """Pinned memory of the host; see `Device.allocate_pinned`."""
        size = max(size_bytes, 1)
        flags = driver.CU_MEMHOSTALLOC_PORTABLE
        what = f"allocate {size} bytes of pinned memory"
        return _Pinned(self, int(_check(what, driver.cuMemHostAlloc(size, flags))), size_bytes)

    def create_stream(self) -> DeviceStream:
        """A stream; see `Device.create_stream`."""
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        return _Stream(self, _check("make a stream", driver.cuStreamCreate(flags)))

    def create_event(self) -> DeviceEvent:
        """An event; see `Device.create_event`."""
        flags = driver.CUevent_flags.CU_EVENT_DEFAULT
        return _Event(self, _check("make an event", driver.cuEventCreate(flags)))

    def copy_to_device(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy from the host; see `Device.copy_to_device`."""
        _check(
            f"copy {size_bytes} bytes to the GPU",
            driver.cuMemcpyHtoDAsync(destination, source, size_bytes, stream.handle),
        )

    def copy_to_host(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy to the host; see `Device.copy_to_host`."""
        _check(
            f"copy {size_bytes} bytes from the GPU",
            driver.cuMemcpyDtoHAsync(destination, source, size_bytes, stream.handle),
        )

    def copy_on_device(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy within the GPU; see `Device.copy_on_device`."""
        _check(
            f"copy {size_bytes} bytes within the GPU",
            driver.cuMemcpyDtoDAsync(destination, source, size_bytes, stream.handle),
        )

    def capture(self, stream: DeviceStream, work: Callable[[], None]) -> CapturedGraph:
        """Record what is queued in a stream; see `Device.capture`."""
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _check("capture a CUDA graph", driver.cuStreamBeginCapture(stream.handle, mode))
        try:
            work()
        except BaseException:
            # Ends the capture; what was recorded so far is thrown away.
            error, graph = driver.cuStreamEndCapture(stream.handle)
            if error == driver.CUresult.CUDA_SUCCESS:
                driver.cuGraphDestroy(graph)
            raise
        graph = _check("capture a CUDA graph", driver.cuStreamEndCapture(stream.handle))
        try:
            executable = _check("make a CUDA graph", driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)
        return _Graph(self, executable)

    def free_memory_bytes(self) -> int:
        """Memory that nobody uses; see `Device.free_memory_bytes`."""
        free, _ = _check("look at the GPU's memory", driver.cuMemGetInfo())
        return int(free)

    def close(self) -> None:
        """Give the primary context back; a second call does nothing."""
        self._finalizer()


class _Owned:
    """Something of the driver that is given back once: by name, or when no longer referenced."""

    def __init__(self, device: CudaPythonDevice, release: Callable[[], Any]) -> None:
        self._device = device
        self._release: Callable[[], Any] | None = release
        self._lock = threading.Lock()

    def _give_back(self) -> None:
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            # A lost GPU has taken everything with it, and a closed one has given it back.
            with suppress(BackendError, RuntimeError), self._device.current():
                release()

    def __del__(self) -> None:
        self._give_back()


class _Buffer(_Owned):
    def __init__(self, device: CudaPythonDevice, address: int, size_bytes: int) -> None:
        super().__init__(device, lambda: driver.cuMemFree(address))
        self.address = address
        self.size_bytes = size_bytes

    def free(self) -> None:
        self._give_back()


class _Pinned(_Owned):
    def __init__(self, device: CudaPythonDevice, address: int, size_bytes: int) -> None:
        super().__init__(device, lambda: driver.cuMemFreeHost(address))
        self.address = address
        memory = (ctypes.c_uint8 * max(size_bytes, 1)).from_address(address)
        self.array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(memory)[:size_bytes]

    def free(self) -> None:
        self._give_back()


class _Stream(_Owned):
    def __init__(self, device: CudaPythonDevice, stream: Any) -> None:
        super().__init__(device, lambda: driver.cuStreamDestroy(stream))
        self.handle = int(stream)

    def synchronize(self) -> None:
        _check("finish its work", driver.cuStreamSynchronize(self.handle))

    def close(self) -> None:
        self._give_back()


class _Event(_Owned):
    def __init__(self, device: CudaPythonDevice, event: Any) -> None:
        super().__init__(device, lambda: driver.cuEventDestroy(event))
        self._event = event

    def record(self, stream: StreamHandle) -> None:
        _check("record an event", driver.cuEventRecord(self._event, stream.handle))

    def synchronize(self) -> None:
        _check("finish its work", driver.cuEventSynchronize(self._event))

    def milliseconds_since(self, earlier: DeviceEvent) -> float:
        if not isinstance(earlier, _Event):
            raise TypeError(f"earlier must be an event of the same device, got {earlier!r}.")
        self.synchronize()
        return float(_check("time events", driver.cuEventElapsedTime(earlier._event, self._event)))

    def close(self) -> None:
        self._give_back()


class _Graph(_Owned):
    def __init__(self, device: CudaPythonDevice, executable: Any) -> None:
        super().__init__(device, lambda: driver.cuGraphExecDestroy(executable))
        self._executable = executable

    def launch(self, stream: DeviceStream) -> None:
        _check("launch a CUDA graph", driver.cuGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        self._give_back()


def _check(what: str, result: tuple[Any, ...]) -> Any:
    """The value of a driver's call: its first element is the error, the rest what it gives."""
    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        raise cuda_error(what, error.name)
    return values[0] if len(values) == 1 else tuple(values)


def _info(index: int) -> GpuInfo:
    device = _check(f"find GPU {index}", driver.cuDeviceGet(index))
    kinds = driver.CUdevice_attribute

    def attribute(kind: Any) -> int:
        return int(_check("describe the GPU", driver.cuDeviceGetAttribute(kind, device)))

    name = _check("describe the GPU", driver.cuDeviceGetName(128, device))
    version = _check("say its version", driver.cuDriverGetVersion())
    major = attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
    minor = attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
    return GpuInfo(
        index=index,
        name=name.split(b"\0")[0].decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        total_memory_bytes=int(_check("describe the GPU", driver.cuDeviceTotalMem(device))),
        driver_version=f"{version // 1000}.{version % 1000 // 10}",
        multiprocessors=attribute(kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        clock_khz=attribute(kinds.CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
    )
