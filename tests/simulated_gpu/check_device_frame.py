"""Frames that another library has put into the memory of the GPU."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import simulated_tensorrt as trt
from samus_edge.runtime import Segmenter
from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor
from samus_edge.runtime.backends.gpu.device_frame import device_frame
from samus_edge.runtime.backends.tensorrt import tensorrt_backend as engine_provider
from samus_edge.runtime.backends.tensorrt.tensorrt_backend import TensorRTBackend, TensorRTOptions
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.check_frame import load_check_frames
from simulated_driver import SimulatedDriver

Array = npt.NDArray[Any]


class _Grabber:
    """A frame as a frame grabber's library gives it."""

    def __init__(self, device: Device, image: Array, **changes: Any) -> None:
        with device.current():
            stream = device.create_stream()
            pinned = device.allocate_pinned(image.nbytes)
            self.memory = device.allocate(image.nbytes)
            pinned.array[:] = np.ascontiguousarray(image).view(np.uint8).ravel()
            device.copy_to_device(self.memory.address, pinned.address, image.nbytes, stream)
            stream.synchronize()
        self.__cuda_array_interface__ = {
            "shape": image.shape,
            "typestr": image.dtype.str,
            "data": (self.memory.address, False),
            "version": 3,
            **changes,
        }


FRAME = load_check_frames()[0]


def test_a_frame_on_the_gpu_gives_the_same_masks(
    device: Device, disc_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        engine_provider,
        "build_engine",
        lambda graph, *, profiles, **_: trt.serialize(graph, profiles),
    )
    backend = TensorRTBackend(
        TensorRTOptions(cache=tmp_path), library=trt.simulated_library, device=device
    )
    with Segmenter(Bundle.open(disc_bundle), backend) as segmenter:
        expected = segmenter.segment(FRAME.image, boxes=FRAME.box[None])
        for stream in (None, 1):
            embedding = segmenter.encode(_Grabber(device, FRAME.image, stream=stream))
            assert embedding.original_hw == FRAME.image.shape
            actual = segmenter.predict(embedding, boxes=FRAME.box[None])
            np.testing.assert_array_equal(actual.masks, expected.masks)
        del embedding


@pytest.mark.parametrize("interface", [{"version": 2}, {}, {"stream": 1}])
def test_a_frame_that_is_still_being_written_is_waited_for(
    device: Device, driver: SimulatedDriver, interface: dict[str, Any]
) -> None:
    written, frame = _Grabber(device, FRAME.image), _Grabber(device, 0 * FRAME.image, **interface)
    driver.set_delays(of_default=100_000)
    with device.current():
        size = FRAME.image.size
        driver.copy_in_default_stream(frame.memory.address, written.memory.address, size)
    np.testing.assert_array_equal(device_frame(frame, device).numpy(), FRAME.image)


def test_it_is_taken_without_a_copy(device: Device, driver: SimulatedDriver) -> None:
    grabber = _Grabber(device, FRAME.image)
    taken = device_frame(grabber, device)
    assert isinstance(taken, DeviceTensor)
    assert taken.address == grabber.memory.address
    assert driver.live()["allocations"] == 1
    np.testing.assert_array_equal(taken.numpy(), FRAME.image)
    interface = taken.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"]) == (FRAME.image.shape, "|u1")
    np.testing.assert_array_equal(device_frame(taken, device).numpy(), FRAME.image)


@pytest.mark.parametrize(
    ("image", "changes", "error", "message"),
    [
        (np.zeros((4, 4), np.float32), {}, TypeError, "must be uint8 .* got float32"),
        (np.zeros((4, 4, 3), np.uint8), {}, ValueError, r"shape \(H, W\), grey, got \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), {"strides": (8, 1)}, ValueError, r"got strides \(8, 1\)"),
        (np.zeros((4, 4), np.uint8), {"stream": 0}, ValueError, "must not be 0"),
        (np.zeros((4, 4), np.uint8), {"mask": object()}, ValueError, "must not have a mask"),
        (np.zeros((4, 4), np.uint8), {"shape": (0, 4)}, ValueError, "from 1 to 67108864 pixels"),
    ],
)
def test_what_is_no_grey_frame_is_refused(
    device: Device, image: Array, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        device_frame(_Grabber(device, image, **changes), device)


def test_what_is_no_array_is_refused(device: Device) -> None:
    with pytest.raises(
        TypeError, match="must be a numpy array, or an array in the memory of the GPU"
    ):
        device_frame([1, 2], device)


def test_the_cpu_takes_no_memory_of_a_gpu(device: Device, disc_segmenter: Segmenter) -> None:
    with pytest.raises(TypeError, match="takes no memory of a GPU: copy the image to the host"):
        disc_segmenter.encode(_Grabber(device, FRAME.image))


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Managed(ctypes.Structure):
    """DLManagedTensor, written down a second time, flat."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class _DlpackGrabber:
    """A frame of a library that has only DLPack."""

    def __init__(self, device: Device, image: Array, kind: int = 2, index: int = 0) -> None:
        self._grabber = _Grabber(device, image)
        self._device = (kind, index)
        self._shape = (ctypes.c_int64 * 2)(*image.shape)
        self._managed = _Managed(
            data=self._grabber.memory.address,
            device=_Device(kind, index),
            ndim=2,
            code=1,
            bits=8,
            lanes=1,
            shape=self._shape,
        )
        self.asked_for: list[int] = []
        self.__cuda_array_interface__: dict[str, str]

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: int) -> Any:
        self.asked_for.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self._managed), b"dltensor", None)


@pytest.mark.parametrize("has_both", [False, True])
def test_dlpack_is_read_and_comes_first(device: Device, has_both: bool) -> None:
    grabber = _DlpackGrabber(device, FRAME.image)
    if has_both:  # as PyTorch
        grabber.__cuda_array_interface__ = {"shape": "must not be looked at"}
    np.testing.assert_array_equal(device_frame(grabber, device).numpy(), FRAME.image)
    assert grabber.asked_for == [1]


def test_dlpack_of_another_gpu_or_of_the_host_is_refused(device: Device) -> None:
    with pytest.raises(ValueError, match="lies on GPU 1, and this segmenter computes on GPU 0"):
        device_frame(_DlpackGrabber(device, FRAME.image, index=1), device)
    with pytest.raises(TypeError, match="must be a numpy array"):
        device_frame(_DlpackGrabber(device, FRAME.image, kind=1), device)


def test_a_capsule_of_something_else_is_refused(device: Device) -> None:
    fake = SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=lambda *, stream: object())
    with pytest.raises(TypeError, match="gave no DLPack tensor"):
        device_frame(fake, device)
