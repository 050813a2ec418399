"""The reference of the high-frequency image, against hand-computed cases and its source."""

import sys

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samus_edge.errors import MissingExtraError
from samus_edge.high_frequency import high_frequency_image

EXACT = 1e-3
"""Grey levels. float64 throughout, rounded once to float32 (1.5e-5 at 255); OpenCV before version 5
computes interpolation weights in float32."""

SMALL_FRAMES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 255)
)


def frame(blocks: list[list[list[list[int]]]]) -> npt.NDArray[np.uint8]:
    """Assemble a frame from rows of 2x2 blocks; each block becomes one pixel of each band."""
    return np.block([[np.array(block) for block in row] for row in blocks]).astype(np.uint8)


def source_formula(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The source's listing: no guard against flat bands, resized to the frame's own size."""
    _, (lh, hl, hh) = pywt.dwt2(image, "haar")
    lh = (lh - lh.min()) / (lh.max() - lh.min()) * 255
    hl = (hl - hl.min()) / (hl.max() - hl.min()) * 255
    hh = (hh - hh.min()) / (hh.max() - hh.min()) * 255
    merge = lh + hl + hh
    merge = (merge - merge.min()) / (merge.max() - merge.min()) * 255
    resized: npt.NDArray[np.float64] = cv2.resize(merge, [image.shape[1], image.shape[0]])
    return resized


def test_one_edge_per_band_gives_full_contrast() -> None:
    # Band values (horizontal, vertical, diagonal) of the blocks, by hand from half the sums and
    # differences: (0, 0, 0), (8, 0, 0), (0, 4, 0), (0, 0, 6). Each band scales to one 255.
    image = frame([[[[0, 0], [0, 0]], [[8, 8], [0, 0]]], [[[4, 0], [4, 0]], [[6, 0], [0, 6]]]])
    np.testing.assert_allclose(
        high_frequency_image(image, (2, 2)), [[0, 255], [255, 255]], atol=EXACT
    )


def test_bands_are_scaled_before_and_after_they_are_summed() -> None:
    # Blocks (0, 0, 0), (8, 0, 0), (2, 0, 0), (8, 4, 0): scaled horizontal 0, 255, 63.75, 255,
    # scaled vertical 0, 0, 0, 255, no diagonal; their sum 0, 255, 63.75, 510 is halved.
    image = frame([[[[0, 0], [0, 0]], [[8, 8], [0, 0]]], [[[2, 2], [0, 0]], [[12, 8], [4, 0]]]])
    np.testing.assert_allclose(
        high_frequency_image(image, (2, 2)), [[0, 127.5], [31.875, 255]], atol=EXACT
    )


def test_odd_sizes_repeat_the_last_column() -> None:
    # Pairs (0, 10) and (4, 4): the repeated last column shows no edge.
    image = np.array([[0, 10, 4]], dtype=np.uint8)
    np.testing.assert_allclose(high_frequency_image(image, (1, 2)), [[0, 255]], atol=EXACT)


def test_resize_uses_half_pixel_centres() -> None:
    # Two band pixels 0 and 255 seen at -0.25, 0.25, 0.75 and 1.25.
    image = np.array([[0, 10, 4, 4]], dtype=np.uint8)
    np.testing.assert_allclose(
        high_frequency_image(image, (1, 4)), [[0, 63.75, 191.25, 255]], atol=EXACT
    )


@pytest.mark.parametrize(
    "image_hw", [(8, 8), (64, 64), (37, 53), (300, 200)], ids=lambda hw: f"{hw[0]}x{hw[1]}"
)
def test_agrees_with_the_source_on_images_that_are_not_flat(image_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, image_hw, dtype=np.uint8)
    np.testing.assert_allclose(
        high_frequency_image(image, image_hw), source_formula(image), atol=EXACT
    )


@pytest.mark.parametrize("value", [0, 1, 127, 255])
@pytest.mark.parametrize("image_hw", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 7), (64, 48)])
def test_constant_images_give_zeros(image_hw: tuple[int, int], value: int) -> None:
    image = np.full(image_hw, value, dtype=np.uint8)
    np.testing.assert_array_equal(high_frequency_image(image), np.zeros((256, 256)))


def test_flat_bands_contribute_nothing() -> None:
    # One horizontal step inside the first pair of rows: the other two bands are flat.
    image = np.zeros((4, 6), dtype=np.uint8)
    image[0] = 200
    np.testing.assert_allclose(
        high_frequency_image(image, (2, 3)), [[255, 255, 255], [0, 0, 0]], atol=EXACT
    )


def test_bands_that_cancel_exactly_give_zeros() -> None:
    # Blocks (0, 4, 0) and (4, 0, 0): the scaled bands sum to 255 everywhere.
    image = frame([[[[4, 0], [4, 0]], [[4, 4], [0, 0]]]])
    np.testing.assert_allclose(high_frequency_image(image, (1, 2)), [[0, 0]], atol=EXACT)


def test_bands_that_nearly_cancel_are_not_blown_up() -> None:
    # Blocks (0, 255, 0), (255, 0, 0), (127, 127, 0): the scaled bands sum to 255, 255, 254. That
    # range of 1 is divided by the floor of 2, not by itself.
    image = frame([[[[255, 0], [255, 0]], [[255, 255], [0, 0]], [[255, 128], [128, 1]]]])
    np.testing.assert_allclose(high_frequency_image(image, (1, 3)), [[127.5, 127.5, 0]], atol=EXACT)


@given(SMALL_FRAMES, st.tuples(st.integers(1, 64), st.integers(1, 64)))
@settings(deadline=None, derandomize=True)
def test_any_frame_gives_finite_grey_levels_of_the_size_asked_for(
    image: npt.NDArray[np.uint8], output_hw: tuple[int, int]
) -> None:
    high_frequency = high_frequency_image(image, output_hw)
    assert high_frequency.shape == output_hw
    assert high_frequency.dtype == np.float32
    assert high_frequency.min() >= 0.0
    assert high_frequency.max() <= 255.0


@given(SMALL_FRAMES)
@settings(deadline=None, derandomize=True)
def test_transposing_the_frame_transposes_the_result(image: npt.NDArray[np.uint8]) -> None:
    # The horizontal and the vertical band change places, and the sum does not care.
    height, width = image.shape
    np.testing.assert_allclose(
        high_frequency_image(np.ascontiguousarray(image.T), (width, height)).T,
        high_frequency_image(image, (height, width)),
        atol=EXACT,
    )


@given(SMALL_FRAMES, st.integers(0, 127))
@settings(deadline=None, derandomize=True)
def test_brightness_does_not_matter(image: npt.NDArray[np.uint8], offset: int) -> None:
    dark = image // 2
    np.testing.assert_allclose(
        high_frequency_image(dark + np.uint8(offset)), high_frequency_image(dark), atol=EXACT
    )


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4), dtype=np.float32), TypeError, "got dtype float32"),
        ([[0, 1]], TypeError, "got list"),
        (np.zeros((4, 4, 3), dtype=np.uint8), ValueError, r"got shape \(4, 4, 3\)"),
        (np.zeros((0, 4), dtype=np.uint8), ValueError, r"got shape \(0, 4\)"),
    ],
)
def test_raises_when_the_image_is_not_a_grey_frame(
    image: npt.NDArray[np.uint8], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        high_frequency_image(image)


def test_raises_when_the_output_has_no_pixels() -> None:
    with pytest.raises(ValueError, match=r"output_hw .* got \(0, 256\)"):
        high_frequency_image(np.zeros((4, 4), dtype=np.uint8), (0, 256))


def test_missing_pywavelets_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(MissingExtraError, match=r"'PyWavelets'.*\[train\]"):
        high_frequency_image(np.zeros((4, 4), dtype=np.uint8))
