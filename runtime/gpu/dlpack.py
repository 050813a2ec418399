"""Reading arrays of other libraries through DLPack.

Source: dlpack.h of DLPack 0.8 (struct DLManagedTensor); the Python specification of the data exchange
protocol of the array API standard.
"""

import ctypes
from typing import Any

import numpy as np

__all__ = ["read_dlpack"]

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
    capsule's own destructor gives back what it holds. The producer is asked to be ready for the legacy
    default stream, which is then to be waited for.

    Args:
        array: with `__dlpack__`.

    Returns:
        Shape, strides in bytes, element type, address and stream, as `__cuda_array_interface__`.

    Raises:
        TypeError: if the elements are none of integers and floats, or the capsule is no DLPack tensor.
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
