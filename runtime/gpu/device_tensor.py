"""An array in the memory of a GPU."""

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.gpu.device import Device, DeviceBuffer

__all__ = ["DeviceArray", "DeviceTensor"]


class DeviceArray(Protocol):
    """An array of another library that lies in the memory of a GPU: CuPy's, PyTorch's, Numba's, OpenCV's.

    Objects with `__dlpack__` and `__dlpack_device__` alone are taken as well.
    """

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


class DeviceTensor:
    """A dense array in row-major order in the memory of a GPU.

    Other libraries read it without a copy through `__cuda_array_interface__`, for example
    `torch.as_tensor(tensor, device="cuda")` or `cupy.asarray(tensor)`; they must keep it alive. It must
    not be written to.
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
            ValueError: if the memory is too small.
        """
        self._device = device
        self._memory = memory
        self._shape = shape
        self._dtype = np.dtype(dtype)
        if self.nbytes > memory.size_bytes:
            raise ValueError(f"{shape} {self._dtype} does not fit into {memory.size_bytes} bytes.")

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
        """Version 3 of Numba's interface. What is in the array is ready: no stream is to be waited for."""
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
