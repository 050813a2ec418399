"""A GPU through cuda-python, NVIDIA's own binding of the CUDA driver."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cuda.bindings import driver

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

_COPIES = {
    Way.TO_DEVICE: driver.cuMemcpyHtoDAsync,
    Way.TO_HOST: driver.cuMemcpyDtoHAsync,
    Way.ON_DEVICE: driver.cuMemcpyDtoDAsync,
}


def gpu_infos() -> list[GpuInfo]:
    """Every GPU that this process sees.

    Raises:
        BackendError: if the driver does not start.
    """
    _check("start its driver", driver.cuInit(0))
    count = _check("count the GPUs", driver.cuDeviceGetCount())
    return [_info(index) for index in range(count)]


class CudaPythonDevice(Device):
    """One GPU and its primary context, the one that PyTorch and the CUDA runtime use as well."""

    binding = "cuda-python"

    def __init__(self, index: int = 0) -> None:
        """Retain the GPU's primary context.

        Args:
            index: Number of the GPU, as CUDA counts those that this process sees.

        Raises:
            BackendError: if there is no driver or no such GPU.
        """
        _check("start its driver", driver.cuInit(0))
        device = _check(f"find GPU {index}", driver.cuDeviceGet(index))
        self.info = _info(index)
        what = "make a context on the GPU"
        self._context = _check(what, driver.cuDevicePrimaryCtxRetain(device))
        self._finalizer = weakref.finalize(self, driver.cuDevicePrimaryCtxRelease, device)

    @contextmanager
    def current(self) -> Iterator[None]:
        if not self._finalizer.alive:
            raise RuntimeError("this GPU was given back. Make another device with find_device().")
        _check("make the GPU current", driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            driver.cuCtxPopCurrent()  # an error here has been raised by what led to it

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        size = max(size_bytes, 1)
        address = int(_check(f"allocate {size} bytes of the GPU", driver.cuMemAlloc(size)))
        return DeviceBuffer(self, address, driver.cuMemFree, address, size_bytes)

    def allocate_pinned(self, size_bytes: int) -> PinnedBuffer:
        size, flags = max(size_bytes, 1), driver.CU_MEMHOSTALLOC_PORTABLE
        what = f"allocate {size} bytes of pinned memory"
        address = int(_check(what, driver.cuMemHostAlloc(size, flags)))
        return PinnedBuffer(self, address, driver.cuMemFreeHost, address, size_bytes)

    def create_stream(self) -> DeviceStream:
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = _check("make a stream", driver.cuStreamCreate(flags))
        return DeviceStream(self, stream, driver.cuStreamDestroy, int(stream))

    def create_event(self) -> DeviceEvent:
        flags = driver.CUevent_flags.CU_EVENT_DEFAULT
        event = _check("make an event", driver.cuEventCreate(flags))
        return DeviceEvent(self, event, driver.cuEventDestroy)

    def _capture(self, stream: DeviceStream, work: Callable[[], None]) -> CapturedGraph:
        what, mode = "capture a CUDA graph", driver.CUstreamCaptureMode
        thread_local = mode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _check(what, driver.cuStreamBeginCapture(stream.handle, thread_local))
        try:
            work()
        except BaseException:
            # Ends the capture; what was recorded so far is thrown away.
            error, graph = driver.cuStreamEndCapture(stream.handle)
            if error == driver.CUresult.CUDA_SUCCESS:
                driver.cuGraphDestroy(graph)
            raise
        graph = _check(what, driver.cuStreamEndCapture(stream.handle))
        try:
            executable = _check("make a CUDA graph", driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)
        return CapturedGraph(self, executable, driver.cuGraphExecDestroy)

    def free_memory_bytes(self) -> int:
        free, _ = _check("look at the GPU's memory", driver.cuMemGetInfo())
        return int(free)

    def close(self) -> None:
        self._finalizer()

    def _copy(
        self, way: Way, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        queued = _COPIES[way](destination, source, size_bytes, stream.handle)
        _check(f"copy {size_bytes} bytes {way.value}", queued)

    def _synchronize(self) -> None:
        _check("finish its work", driver.cuCtxSynchronize())

    def _synchronize_stream(self, stream: Any) -> None:
        _check("finish its work", driver.cuStreamSynchronize(stream))

    def _record(self, event: Any, stream: StreamHandle) -> None:
        _check("record an event", driver.cuEventRecord(event, stream.handle))

    def _synchronize_event(self, event: Any) -> None:
        _check("finish its work", driver.cuEventSynchronize(event))

    def _milliseconds(self, start: Any, end: Any) -> float:
        return float(_check("time events", driver.cuEventElapsedTime(start, end)))

    def _launch(self, graph: Any, stream: DeviceStream) -> None:
        _check("launch a CUDA graph", driver.cuGraphLaunch(graph, stream.handle))


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
