"""What the runtime asks of a GPU: memory, copies, streams, captured graphs.

Two implementations, cuda-python and PyCUDA; nothing else in the runtime knows which one it has.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "CapturedGraph",
    "Device",
    "DeviceBuffer",
    "DeviceEvent",
    "DeviceStream",
    "GpuInfo",
    "PinnedBuffer",
    "StreamHandle",
]


@dataclass(frozen=True)
class GpuInfo:
    """A GPU, in the driver's words.

    Attributes:
        index: of the device, as CUDA counts those that are visible to this process.
        name: for example "NVIDIA RTX A2000 Laptop GPU" or "Orin".
        compute_capability: for example "8.6".
        total_memory_bytes: of the device; on a Jetson shared with the CPU.
        driver_version: the CUDA version that the driver supports, for example "13.0".
        multiprocessors: number of streaming multiprocessors.
        clock_khz: highest clock of the multiprocessors; 0 where the driver does not say.
    """

    index: int
    name: str
    compute_capability: str
    total_memory_bytes: int
    driver_version: str
    multiprocessors: int
    clock_khz: int


class DeviceBuffer(Protocol):
    """Memory of the GPU. Freed by `free`, at the latest when it is no longer referenced."""

    @property
    def address(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def free(self) -> None:
        """Give the memory back; a second call does nothing."""
        ...


class PinnedBuffer(Protocol):
    """Host memory that the GPU copies from and to without a stop; freed as `DeviceBuffer`.

    Attributes:
        array: (size,), uint8, writable; must not be used after `free`.
    """

    @property
    def array(self) -> npt.NDArray[np.uint8]: ...

    @property
    def address(self) -> int: ...

    def free(self) -> None:
        """Give the memory back; a second call does nothing."""
        ...


class StreamHandle(Protocol):
    """A stream of whoever it is.

    Attributes:
        handle: the CUstream as an integer, as TensorRT takes it.
    """

    @property
    def handle(self) -> int: ...


class DeviceStream(StreamHandle, Protocol):
    """A queue of work on the GPU, done in order."""

    def synchronize(self) -> None:
        """Wait until everything queued is done.

        Raises:
            BackendError: if something queued has failed; the device is then often unusable.
        """
        ...

    def close(self) -> None:
        """Give the stream back; a second call does nothing."""
        ...


class DeviceEvent(Protocol):
    """A mark in a stream, to time what lies between two of them, or to wait for it."""

    def record(self, stream: StreamHandle) -> None:
        """Put the mark at the end of what is queued."""
        ...

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        ...

    def milliseconds_since(self, earlier: "DeviceEvent") -> float:
        """Time between two marks; waits for this one."""
        ...

    def close(self) -> None:
        """Give the event back; a second call does nothing."""
        ...


class CapturedGraph(Protocol):
    """Work that was queued once and can be launched again as a whole (a CUDA graph)."""

    def launch(self, stream: DeviceStream) -> None:
        """Queue all of it."""
        ...

    def close(self) -> None:
        """Give the graph back; a second call does nothing."""
        ...


class Device(Protocol):
    """One GPU.

    All methods but `current` and `close`, and those of what they make, are called while the device
    is current in the calling thread. Errors of CUDA are raised as BackendError, with what was
    asked for, CUDA's name of the error and what can be done.

    Attributes:
        binding: the Python package that is used, "cuda-python" or "pycuda".
        info: which GPU it is.
    """

    @property
    def binding(self) -> str: ...

    @property
    def info(self) -> GpuInfo: ...

    def current(self) -> AbstractContextManager[None]:
        """Make the device current in this thread; on leaving, what was current before is so again."""
        ...

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        """Memory of the GPU, at least one byte of it."""
        ...

    def allocate_pinned(self, size_bytes: int) -> PinnedBuffer:
        """Pinned memory of the host, at least one byte of it."""
        ...

    def create_stream(self) -> DeviceStream:
        """A stream that does not wait for the default stream."""
        ...

    def create_event(self) -> DeviceEvent:
        """An event that can be timed."""
        ...

    def copy_to_device(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy from a host address; the host memory must live and stay until it is done."""
        ...

    def copy_to_host(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy to a host address."""
        ...

    def copy_on_device(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy within the device's memory."""
        ...

    def capture(self, stream: DeviceStream, work: Callable[[], None]) -> CapturedGraph:
        """Record what `work` queues in a stream, without doing it.

        What `work` raises is raised again; the stream is usable afterwards.
        """
        ...

    def free_memory_bytes(self) -> int:
        """Memory of the device that nobody uses."""
        ...

    def close(self) -> None:
        """Give the device back; buffers, streams and the like must have been given back before."""
        ...
