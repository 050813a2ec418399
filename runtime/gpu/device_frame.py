"""A frame that another library has put into the memory of the GPU, such as a frame grabber's."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from samus_edge.runtime.gpu.device import Device
from samus_edge.runtime.gpu.device_tensor import DeviceTensor
from samus_edge.runtime.grey_frame import MAX_IMAGE_PIXELS

__all__ = ["device_frame"]

_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


class _ForeignMemory:
    """Memory that belongs to someone else, who is kept alive."""

    def __init__(self, owner: object, address: int, size_bytes: int) -> None:
        self._owner: object | None = owner
        self.address = address
        self.size_bytes = size_bytes

    def free(self) -> None:
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
        ValueError: if it lies on another GPU, has another shape, or gaps between its elements.
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
        raise ValueError(
            f"an image in the memory of the GPU must have shape (H, W), grey, got {shape}. Make it grey "
            "there, or copy it to the host, where RGB is taken as well."
        )
    height, width = shape
    if height == 0 or width == 0 or height * width > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"image must have from 1 to {MAX_IMAGE_PIXELS} pixels, got {width} x {height}."
        )
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != (width, 1):
        raise ValueError(
            f"an image in the memory of the GPU must be dense, (H, W) = {shape} with strides "
            f"({width}, 1), got strides {tuple(strides)}. Make a contiguous copy there."
        )
    if interface.get("mask") is not None:
        raise ValueError("image must not have a mask.")
    address = int(interface["data"][0])
    _wait_for_producer(interface.get("stream"), device)
    memory = _ForeignMemory(image, address, height * width)
    return DeviceTensor(device, memory, shape, np.uint8)


def _interface(image: Any, device: Device) -> dict[str, Any]:
    """The CUDA array interface of an image, made from DLPack where it has only that."""
    interface = getattr(image, "__cuda_array_interface__", None)
    if interface is not None:
        return dict(interface)
    if hasattr(image, "__dlpack_device__") and hasattr(image, "__dlpack__"):
        kind, index = image.__dlpack_device__()
        if int(kind) in _DLPACK_CUDA:
            if int(index) != device.info.index:
                raise ValueError(
                    f"image lies on GPU {index}, and this segmenter computes on GPU "
                    f"{device.info.index}. Copy it there, or load the segmenter for GPU {index}."
                )
            from samus_edge.runtime.gpu.dlpack import read_dlpack

            return read_dlpack(image)
    raise TypeError(
        f"image must be a numpy array, or an array in the memory of the GPU with "
        f"__cuda_array_interface__ or __dlpack__, got {type(image).__name__}."
    )


def _wait_for_producer(stream: int | None, device: Device) -> None:
    """Wait until the stream of the producer has reached what it has queued so far."""
    if stream is None:
        return
    if stream == 0:
        raise ValueError(
            "the stream of __cuda_array_interface__ must not be 0, which is ambiguous."
        )
    with device.current():
        event = device.create_event()
        try:
            event.record(_ForeignStream(stream))
            event.synchronize()
        finally:
            event.close()
