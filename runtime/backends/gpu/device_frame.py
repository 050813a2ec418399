"""A frame that another library has put into the memory of the GPU, such as a frame grabber's.

Reading arrays of other libraries through DLPack.

Source: dlpack.h of DLPack 0.8 (struct DLManagedTensor); the Python specification of the data
exchange protocol of the array API standard.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor
from samus_edge.runtime.images.image_io import MAX_IMAGE_PIXELS

_NAME = b"dltensor"
# DLDataTypeCode: signed, unsigned, float.
_KINDS = {0: "i", 1: "u", 2: "f"}
# As the CUDA array interface has it too: the legacy default stream.
_LEGACY_STREAM = 1


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_ManagedTensor))
_ManagedTensor._fields_ = (
    ("tensor", _Tensor),
    ("manager", ctypes.c_void_p),
    ("deleter", _Deleter),
)

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def read_dlpack(array: Any) -> dict[str, Any]:
    """Describe an array in the memory of a GPU in the terms of the CUDA array interface.

    The capsule is looked at, not consumed: the array must be kept alive by the caller, and the
    capsule's own destructor gives back what it holds. The producer is asked to be ready for the
    legacy default stream, which is then to be waited for.

    Args:
        array: An object with `__dlpack__`.

    Returns:
        Shape, strides in bytes, element type, address and stream, as `__cuda_array_interface__`.

    Raises:
        TypeError: if the elements are none of integers and floats, or the capsule is no DLPack
            tensor.
    """
    capsule = array.__dlpack__(stream=_LEGACY_STREAM)
    try:
        pointer = _get_pointer(capsule, _NAME)
    except ValueError as err:
        raise TypeError(
            f"{type(array).__name__}.__dlpack__ gave no DLPack tensor ({err})."
        ) from err
    tensor = ctypes.cast(pointer, ctypes.POINTER(_ManagedTensor)).contents.tensor
    kind = _KINDS.get(tensor.dtype.code)
    if kind is None or tensor.dtype.lanes != 1 or tensor.dtype.bits % 8:
        raise TypeError(
            f"image must be uint8, got elements of DLPack's type {tensor.dtype.code} with "
            f"{tensor.dtype.bits} bits and {tensor.dtype.lanes} lanes."
        )
    dtype = np.dtype(f"{kind}{tensor.dtype.bits // 8}")
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim))
    return {
        "shape": tuple(tensor.shape[axis] for axis in range(tensor.ndim)),
        "strides": strides,
        "typestr": dtype.str,
        "data": ((tensor.data or 0) + tensor.byte_offset, True),
        "stream": _LEGACY_STREAM,
        "version": 3,
    }


_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


class _ForeignMemory:
    """Memory that belongs to someone else, who is kept alive."""

    def __init__(self, owner: object, address: int, size_bytes: int) -> None:
        self._owner: object | None = owner
        self.address = address
        self.size_bytes = size_bytes

    def lend(self) -> None:
        """Do nothing: the owner knows who reads it."""

    def close(self) -> None:
        """Let the owner go."""
        self._owner = None


@dataclass(frozen=True)
class _ForeignStream:
    """A stream of someone else, to wait for."""

    handle: int


def device_frame(image: Any, device: Device) -> DeviceTensor:
    """Take a frame as it lies in the GPU's memory, without a copy.

    What its producer has queued in the stream that it names is waited for.

    Args:
        image: (H, W), uint8, grey, rows without gaps, on `device`; with `__cuda_array_interface__`,
            or `__dlpack__` and `__dlpack_device__`.
        device: the GPU that segments.

    Raises:
        TypeError: if it is no array of a GPU, or not uint8.
        BadArgumentError: if it lies on another GPU, has another shape, or gaps between its
            elements.
        BackendError: if the GPU fails.
    """
    interface = _interface(image, device)
    shape = tuple(int(size) for size in interface["shape"])
    dtype = np.dtype(interface["typestr"])
    if dtype != np.uint8:
        raise TypeError(
            f"image must be uint8 in [0, 255], got {dtype.name}. Scale it on the GPU first."
        )
    if len(shape) != 2:
        raise BadArgumentError(
            f"an image in the memory of the GPU must have shape (H, W), grey, got {shape}. Make it "
            "grey there, or copy it to the host, where RGB is taken as well."
        )
    height, width = shape
    if height == 0 or width == 0 or height * width > MAX_IMAGE_PIXELS:
        raise BadArgumentError(
            f"image must have from 1 to {MAX_IMAGE_PIXELS} pixels, got {width} x {height}."
        )
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != (width, 1):
        raise BadArgumentError(
            f"an image in the memory of the GPU must be dense, (H, W) = {shape} with strides "
            f"({width}, 1), got strides {tuple(strides)}. Make a contiguous copy there."
        )
    if interface.get("mask") is not None:
        raise BadArgumentError("image must not have a mask.")
    address = int(interface["data"][0])
    # Version 2, which PyTorch has, knows no streams: its arrays are those of the default stream.
    _wait_for_producer(interface.get("stream", _LEGACY_STREAM), device)
    memory = _ForeignMemory(image, address, height * width)
    return DeviceTensor(device, memory, shape, np.uint8)


def _interface(image: Any, device: Device) -> dict[str, Any]:
    """The CUDA array interface of an image, made from DLPack where it has that.

    DLPack comes first: through it the producer makes the stream that is named wait for its own.
    """
    if hasattr(image, "__dlpack_device__") and hasattr(image, "__dlpack__"):
        kind, index = image.__dlpack_device__()
        if int(kind) in _DLPACK_CUDA:
            if int(index) != device.info.index:
                raise BadArgumentError(
                    f"image lies on GPU {index}, and this segmenter computes on GPU "
                    f"{device.info.index}. Copy it there, or load the segmenter for GPU {index}."
                )

            return read_dlpack(image)
    interface = getattr(image, "__cuda_array_interface__", None)
    if interface is not None:
        return dict(interface)
    raise TypeError(
        f"image must be a numpy array, or an array in the memory of the GPU with "
        f"__cuda_array_interface__ or __dlpack__, got {type(image).__name__}."
    )


def _wait_for_producer(stream: int | None, device: Device) -> None:
    """Wait until the stream of the producer has reached what it has queued so far."""
    if stream is None:
        return
    if stream == 0:
        raise BadArgumentError(
            "the stream of __cuda_array_interface__ must not be 0, which is ambiguous."
        )
    with device.current():
        event = device.create_event()
        try:
            event.record(_ForeignStream(stream))
            event.synchronize()
        finally:
            event.close()
