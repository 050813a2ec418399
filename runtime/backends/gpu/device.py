"""What the runtime asks of a GPU: memory, copies, streams, captured graphs.

Two implementations of `Device`, on cuda-python and on PyCUDA; nothing else in the runtime knows
which one it has.
"""

import ctypes
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BackendError, BadArgumentError

_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": (
        "The GPU has too little free memory: close what else uses it, or build the engines for "
        "smaller frames and fewer prompts."
    ),
    "CUDA_ERROR_NO_DEVICE": "No NVIDIA GPU is visible: look at CUDA_VISIBLE_DEVICES and "
    "nvidia-smi.",
    "CUDA_ERROR_INVALID_DEVICE": "There is no GPU of that index: samus-edge doctor lists them.",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "Reboot: the driver was updated while it was in use.",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "Update the NVIDIA driver.",
    **dict.fromkeys(
        (
            "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER",
            "CUDA_ERROR_INSUFFICIENT_DRIVER",
            "CUDA_ERROR_INSUFFICIENT_LOADER_VERSION",
        ),
        "The driver is older than the CUDA that asks it: update it, or for a driver of CUDA 12 "
        "install 'cuda-python>=12.6,<13' and tensorrt-cu12.",
    ),
    "CUDA_ERROR_STUB_LIBRARY": "A stub of the driver was loaded instead of the driver: take the "
    "toolkit's folder stubs out of LD_LIBRARY_PATH.",
    "CUDA_ERROR_SYSTEM_NOT_READY": "The driver or its services are still starting: wait, or on a "
    "machine with NVSwitch start nvidia-fabricmanager.",
}
# After these the context is unusable for good, in every thread.
_LOST = (
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_CONTAINED",
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
    "CUDA_ERROR_TENSOR_MEMORY_LEAK",
)


def cuda_error(what: str, name: str) -> BackendError:
    """The error to raise.

    Args:
        what: The request that failed, for example "allocate 1048576 bytes".
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
        index: Index of the device, as CUDA counts those that are visible to this process.
        name: for example "NVIDIA RTX A2000 Laptop GPU" or "Orin".
        compute_capability: for example "8.6".
        total_memory_bytes: Size of its memory; on a Jetson shared with the CPU.
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


class DeviceMemory(Protocol):
    """Memory of the GPU, whoever owns it."""

    @property
    def address(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def lend(self) -> None:
        """Note that another library may read it, in a stream that is not known here."""
        ...

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        ...


class StreamHandle(Protocol):
    """A stream, whoever owns it.

    Attributes:
        handle: The CUstream as an integer, as TensorRT takes it.
    """

    @property
    def handle(self) -> int: ...


_capturing = threading.local()
# While a stream of a context is captured, that context must not be waited for.
_capture_lock = threading.Lock()


def outside_capture(action: Callable[[], None]) -> None:
    """Do something now, or after the capture if this thread is in one.

    Whatever frees memory of the GPU there ends the capture, and a collection of garbage may come at
    any time.
    """
    deferred: list[Callable[[], None]] | None = getattr(_capturing, "deferred", None)
    if deferred is None:
        action()
    else:
        deferred.append(action)


_Release: TypeAlias = Callable[[Any], object]


class _Owned:
    """Something of the driver, given back once: by `close`, or when it is no longer referenced.

    `value` is what the binding has for it, and None afterwards.
    """

    def __init__(self, device: "Device", value: Any, release: _Release) -> None:
        self._device = device
        self.value = value
        self._release = release
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give it back, after a capture that this thread is in; a second call does nothing."""
        outside_capture(self._give_back)

    def _give_back(self) -> None:
        with self._lock:
            value, self.value = self.value, None
        if value is not None:
            # A lost GPU has taken everything with it, and a closed one has given it back.
            with suppress(*self._device.errors), self._device.current():
                self._release(value)
                del value  # where there is no function to free it, its destructor does

    def __del__(self) -> None:
        self.close()


class DeviceBuffer(_Owned):
    """Memory of the GPU."""

    def __init__(
        self, device: "Device", value: Any, release: _Release, address: int, size_bytes: int
    ) -> None:
        super().__init__(device, value, release)
        self.address = address
        self.size_bytes = size_bytes

    def lend(self) -> None:
        """Do nothing: the driver frees memory when everything queued is done."""


class PinnedBuffer(DeviceBuffer):
    """Host memory that the GPU copies from and to without a stop."""

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """(size,), uint8, writable; must not be used after `close`."""
        memory = (ctypes.c_uint8 * max(self.size_bytes, 1)).from_address(self.address)
        return np.ctypeslib.as_array(memory)[: self.size_bytes]


class DeviceStream(_Owned):
    """A queue of work on the GPU, done in order; see `StreamHandle`."""

    def __init__(self, device: "Device", value: Any, release: _Release, handle: int) -> None:
        super().__init__(device, value, release)
        self.handle = handle

    def synchronize(self) -> None:
        """Wait until everything queued is done.

        Raises:
            BackendError: if something queued has failed; the device is then often unusable.
        """
        self._device._synchronize_stream(self.value)


class DeviceEvent(_Owned):
    """A mark in a stream, to time what lies between two of them, or to wait for it."""

    def record(self, stream: StreamHandle) -> None:
        """Put the mark at the end of what is queued."""
        self._device._record(self.value, stream)

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        self._device._synchronize_event(self.value)

    def milliseconds_since(self, earlier: "DeviceEvent") -> float:
        """Time between two marks; waits for this one."""
        self.synchronize()
        return self._device._milliseconds(earlier.value, self.value)


class CapturedGraph(_Owned):
    """Work that was queued once and can be launched again as a whole (a CUDA graph)."""

    def launch(self, stream: DeviceStream) -> None:
        """Queue all of it."""
        self._device._launch(self.value, stream)


class Way(Enum):
    """From where to where memory is copied, in the words of a message."""

    TO_DEVICE = "to the GPU"
    TO_HOST = "from the GPU"
    ON_DEVICE = "within the GPU"


class Device(ABC):
    """One GPU.

    All methods but `current` and `close`, and those of what they make, are called while the device
    is current in the calling thread. Errors of CUDA are raised as BackendError, with what was
    asked for, CUDA's name of the error and what can be done.

    Attributes:
        binding: The Python package that is used, "cuda-python" or "pycuda".
        info: Which GPU it is.
        errors: What giving something back may raise.
    """

    binding: ClassVar[str]
    errors: ClassVar[tuple[type[Exception], ...]] = (BackendError, RuntimeError)
    info: GpuInfo

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Make the device current in this thread; on leaving, what was current before is so
        again."""

    @abstractmethod
    def allocate(self, size_bytes: int) -> DeviceBuffer:
        """Memory of the GPU, at least one byte of it."""

    @abstractmethod
    def allocate_pinned(self, size_bytes: int) -> PinnedBuffer:
        """Pinned memory of the host, at least one byte of it."""

    @abstractmethod
    def create_stream(self) -> DeviceStream:
        """A stream that does not wait for the default stream."""

    @abstractmethod
    def create_event(self) -> DeviceEvent:
        """An event that can be timed."""

    def copy_to_device(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy from a host address; the host memory must live and stay until it is done."""
        self._copy(Way.TO_DEVICE, destination, source, size_bytes, stream)

    def copy_to_host(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy to a host address."""
        self._copy(Way.TO_HOST, destination, source, size_bytes, stream)

    def copy_on_device(
        self, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None:
        """Queue a copy within the device's memory."""
        self._copy(Way.ON_DEVICE, destination, source, size_bytes, stream)

    def capture(self, stream: DeviceStream, work: Callable[[], None]) -> CapturedGraph:
        """Record what `work` queues in a stream, without doing it.

        What `work` raises is raised again; the stream is usable afterwards. What is given back
        meanwhile in this thread, by a collection of garbage for example, is freed afterwards.
        """
        deferred: list[Callable[[], None]] = []
        _capturing.deferred = deferred
        try:
            with _capture_lock:
                return self._capture(stream, work)
        finally:
            del _capturing.deferred
            for action in deferred:
                action()

    def synchronize(self) -> None:
        """Wait for everything that is queued on the device, by anybody in this process."""
        with _capture_lock:
            self._synchronize()

    @abstractmethod
    def free_memory_bytes(self) -> int:
        """Memory of the device that nobody uses."""

    @abstractmethod
    def close(self) -> None:
        """Give the device back; buffers, streams and the like must have been given back before. A
        second call does nothing."""

    # What the binding has for the methods of the objects above, on its own values.

    @abstractmethod
    def _copy(
        self, way: Way, destination: int, source: int, size_bytes: int, stream: DeviceStream
    ) -> None: ...

    @abstractmethod
    def _capture(self, stream: DeviceStream, work: Callable[[], None]) -> CapturedGraph: ...

    @abstractmethod
    def _synchronize(self) -> None: ...

    @abstractmethod
    def _synchronize_stream(self, stream: Any) -> None: ...

    @abstractmethod
    def _record(self, event: Any, stream: StreamHandle) -> None: ...

    @abstractmethod
    def _synchronize_event(self, event: Any) -> None: ...

    @abstractmethod
    def _milliseconds(self, start: Any, end: Any) -> float: ...

    @abstractmethod
    def _launch(self, graph: Any, stream: DeviceStream) -> None: ...


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
    `torch.as_tensor(tensor, device="cuda")` or `cupy.asarray(tensor)`; they must keep it alive
    until what reads it is queued. It must not be written to.
    """

    def __init__(
        self, device: Device, memory: DeviceMemory, shape: tuple[int, ...], dtype: npt.DTypeLike
    ) -> None:
        """Describe memory as an array.

        Args:
            device: The GPU whose memory it is.
            memory: Memory of at least the array's size; kept as long as the tensor.
            shape: sizes of the axes.
            dtype: Its numpy dtype.

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
        for. Its memory is not used again before what reads it is done."""
        self._memory.lend()
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
                pinned.close()
                stream.close()

    def __repr__(self) -> str:
        return f"DeviceTensor({self._shape}, {self._dtype}, {self._device.info.name})"


def has_nvidia_driver() -> bool:
    """Whether the driver's library is there; whether it has a GPU to drive is another question."""
    return driver_cuda_version() is not None


def driver_cuda_version() -> str | None:
    """The CUDA version that the driver supports, for example "12.6", without a binding; None if
    there is no driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
