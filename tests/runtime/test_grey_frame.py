"""What counts as an image, and how colour becomes grey."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime.grey_frame import MAX_IMAGE_PIXELS, grey_frame


def test_grey_is_taken_as_it_is() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert grey_frame(image) is image


def test_a_view_becomes_contiguous() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)[::-1, ::2]
    frame = grey_frame(image)
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(frame, image)


def test_rgb_becomes_grey_by_the_luma_weights() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    expected = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    # OpenCV computes in fixed point and rounds: half a level, and a little.
    assert np.abs(grey_frame(image) - expected).max() <= 0.51


def test_the_order_of_channels_is_rgb() -> None:
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert grey_frame(red)[0, 0] == 76  # 0.299 * 255


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\). Drop the alpha channel"),
        (np.zeros((4, 5, 1), np.uint8), r"got \(4, 5, 1\). Drop the last axis"),
        (np.zeros((3, 4, 5), np.uint8), r"got \(3, 4, 5\). Channels come last"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"got \(2, 4, 5, 3\). Pass one image at a time"),
        (np.zeros(4, np.uint8), r"must have shape \(H, W\) or \(H, W, 3\), got \(4,\)"),
        (np.zeros((0, 4), np.uint8), "at least one pixel, got 4 x 0"),
        (np.zeros((4, 0, 3), np.uint8), "at least one pixel, got 0 x 4"),
        (
            np.broadcast_to(np.uint8(0), (8192, 8193)),
            f"8193 x 8192 pixels, more than the limit of {MAX_IMAGE_PIXELS}",
        ),
    ],
)
def test_other_shapes_are_refused(image: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grey_frame(image)


@pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.float32, np.bool_])
def test_other_dtypes_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match=f"must be uint8 .* got {np.dtype(dtype).name}"):
        grey_frame(np.zeros((4, 4), dtype))


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a numpy array, got list"):
        grey_frame([[0, 1], [2, 3]])
