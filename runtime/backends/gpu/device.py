"""What the runtime asks of a GPU: memory, copies, streams, captured graphs.

Two implementations, cuda-python and PyCUDA; nothing else in the runtime knows which one it has.
"""

import ctypes
import math
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BackendError, BadArgumentError

__all__ = [
    "CapturedGraph",
    "Device",
    "DeviceArray",
    "DeviceBuffer",
    "DeviceBufferPool",
    "DeviceEvent",
    "DeviceStream",
    "DeviceTensor",
    "GpuInfo",
    "PinnedBuffer",
    "StreamHandle",
    "cuda_error",
    "has_nvidia_driver",
]


_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": (
        "The GPU has not enough free memory: close what else uses it, or build the engines for "
        "smaller frames and fewer prompts."
    ),
    "CUDA_ERROR_NO_DEVICE": "No NVIDIA GPU is visible: look at CUDA_VISIBLE_DEVICES and "
    "nvidia-smi.",
    "CUDA_ERROR_INVALID_DEVICE": "There is no GPU of that index: samus-edge doctor lists them.",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "Reboot: the driver was updated while it was in use.",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "Update the NVIDIA driver.",
    "CUDA_ERROR_INSUFFICIENT_DRIVER": "Update the NVIDIA driver.",
}
# After these the context is unusable for good, in every thread.
_LOST = (
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_EXTERNAL_DEVICE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
)


def cuda_error(what: str, name: str) -> BackendError:
    """The error to raise.

    Args:
        what: was asked for, for example "allocate 1048576 bytes".
        name: CUDA's name of the error, for example "CUDA_ERROR_OUT_OF_MEMORY".
    """
    advice = _ADVICE.get(name, "samus-edge doctor says what is there and what is missing.")
    if name in _LOST:
        advice = (
            "The GPU is lost to this process: end it and start it again. If that does not help, "
            "look for Xid messages in the kernel's log."
        )
    return BackendError(f"CUDA cannot {what}: {name}. {advice}")


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
        """Make the device current in this thread; on leaving, what was current before is so
        again."""
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


class DeviceArray(Protocol):
    """An array of another library that lies in the memory of a GPU: CuPy's, PyTorch's, Numba's,
    OpenCV's.

    Objects with `__dlpack__` and `__dlpack_device__` alone are taken as well.
    """

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


class DeviceTensor:
    """A dense array in row-major order in the memory of a GPU.

    Other libraries read it without a copy through `__cuda_array_interface__`, for example
    `torch.as_tensor(tensor, device="cuda")` or `cupy.asarray(tensor)`; they must keep it
    alive. It must not be written to.
    """

    def __init__(
        self, device: Device, memory: DeviceBuffer, shape: tuple[int, ...], dtype: npt.DTypeLike
    ) -> None:
        """Describe memory as an array.

        Args:
            device: whose memory it is.
            memory: that holds at least the array; kept as long as the tensor.
            shape: sizes of the axes.
            dtype: numpy's.

        Raises:
            BadArgumentError: if the memory is too small.
        """
        self._device = device
        self._memory = memory
        self._shape = shape
        self._dtype = np.dtype(dtype)
        if self.nbytes > memory.size_bytes:
            raise BadArgumentError(
                f"{shape} {self._dtype} does not fit into {memory.size_bytes} bytes."
            )

    @property
    def address(self) -> int:
        """Of the first element."""
        return self._memory.address

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self._shape

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Of the elements."""
        return self._dtype

    @property
    def nbytes(self) -> int:
        """Size of all elements."""
        return math.prod(self._shape) * self._dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of Numba's interface. What is in the array is ready: no stream is to be waited
        for."""
        return {
            "shape": self._shape,
            "typestr": self._dtype.str,
            "data": (self.address, True),  # read-only
            "version": 3,
            "stream": None,
        }

    def __getitem__(self, key: None) -> "DeviceTensor":
        """`tensor[None]`: the same memory with one more axis in front."""
        if key is not None:
            raise TypeError(f"a DeviceTensor takes None as its only index, got {key!r}.")
        return DeviceTensor(self._device, self._memory, (1, *self._shape), self._dtype)

    def numpy(self) -> npt.NDArray[Any]:
        """Copy it to the host.

        Raises:
            BackendError: if the GPU fails.
        """
        with self._device.current():
            stream = self._device.create_stream()
            pinned = self._device.allocate_pinned(self.nbytes)
            try:
                self._device.copy_to_host(pinned.address, self.address, self.nbytes, stream)
                stream.synchronize()
                content = pinned.array.view(self._dtype).reshape(self._shape)
                return np.array(content)
            finally:
                pinned.free()
                stream.close()

    def __repr__(self) -> str:
        return f"DeviceTensor({self._shape}, {self._dtype}, {self._device.info.name})"


def has_nvidia_driver() -> bool:
    """Whether the driver's library is there; whether it has a GPU to drive is another question."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


class _PooledBuffer:
    """A buffer that goes back to its pool when it is freed or no longer referenced."""

    def __init__(self, pool: "DeviceBufferPool", buffer: DeviceBuffer) -> None:
        self._pool: DeviceBufferPool | None = pool
        self._buffer = buffer

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._buffer.address

    @property
    def size_bytes(self) -> int:
        """As asked for."""
        return self._buffer.size_bytes

    def free(self) -> None:
        """Give it back to the pool; a second call does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool._take_back(self._buffer)

    def __del__(self) -> None:
        self.free()


class DeviceBufferPool:
    """Keeps freed buffers by size: allocating memory of a GPU stops it, and costs more than a
    frame.

    Safe to use from several threads. `allocate` and `close` are called while the device is current.
    """

    def __init__(self, device: Device, max_kept: int = 4) -> None:
        """Make an empty pool.

        Args:
            device: whose memory it is.
            max_kept: buffers of one size that are kept while nobody uses them.
        """
        self._device = device
        self._max_kept = max_kept
        # Reentrant: a collection of garbage may free a buffer while this thread holds the lock.
        self._lock = threading.RLock()
        self._idle: dict[int, list[DeviceBuffer]] = {}
        self._is_closed = False

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        """A buffer of this size, with whatever was in it before.

        Raises:
            BackendError: if there is not enough memory.
        """
        with self._lock:
            idle = self._idle.get(size_bytes)
            if idle:
                return _PooledBuffer(self, idle.pop())
        return _PooledBuffer(self, self._device.allocate(size_bytes))

    def close(self) -> None:
        """Free what is idle; what is still in use is freed when it comes back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, {}
        for buffers in idle.values():
            for buffer in buffers:
                buffer.free()

    def _take_back(self, buffer: DeviceBuffer) -> None:
        with self._lock:
            kept = self._idle.setdefault(buffer.size_bytes, [])
            if not self._is_closed and len(kept) < self._max_kept:
                kept.append(buffer)
                return
        with self._device.current():
            buffer.free()
