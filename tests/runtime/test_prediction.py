"""What the mask decoder is fed."""

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime.backends.backend import check_feeds
from samus_edge.runtime.bundle.manifest import MASK_DECODER, Manifest
from samus_edge.runtime.prediction import mask_decoder_feeds, masks_from_logits, upsample_logits
from samus_edge.runtime.prompts import DecoderPrompts

EMBEDDINGS = np.zeros((1, 256, 32, 32), np.float32)
GROUP = DecoderPrompts(
    rows=np.array([2, 0]),
    point_coords=np.zeros((2, 3, 2), np.float32),
    point_labels=np.ones((2, 3), np.float32),
)


def test_without_mask_input_there_are_zeros_and_no_flag(disc_manifest: Manifest) -> None:
    feeds = mask_decoder_feeds(EMBEDDINGS, GROUP, None, (128, 128))
    check_feeds(MASK_DECODER, disc_manifest.graphs[MASK_DECODER].inputs, feeds)
    assert not feeds["mask_input"].any()
    np.testing.assert_array_equal(feeds["has_mask_input"], [[0], [0]])


def test_the_masks_of_the_group_s_own_rows_are_fed(disc_manifest: Manifest) -> None:
    masks = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((1, 1, 128, 128))
    feeds = mask_decoder_feeds(EMBEDDINGS, GROUP, masks.astype(np.float32), (128, 128))
    check_feeds(MASK_DECODER, disc_manifest.graphs[MASK_DECODER].inputs, feeds)
    np.testing.assert_array_equal(feeds["mask_input"][:, 0, 0, 0], [2, 0])
    np.testing.assert_array_equal(feeds["has_mask_input"], [[1], [1]])


# OpenCV's weights are float32; logits here are below 4.
ATOL = 1e-5


def bilinear(logits: npt.NDArray[np.float32], hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Half-pixel centres, edges repeated, no antialiasing: one axis after the other, in float64."""
    values = logits.astype(np.float64)
    for axis, size in enumerate(hw):
        old = values.shape[axis]
        position = ((np.arange(size) + 0.5) * old / size - 0.5).clip(0, old - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, old - 1)
        weight = (position - low).reshape(-1, *[1] * (1 - axis))
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values


@pytest.mark.parametrize(
    "hw", [(1, 1), (1, 7), (64, 64), (128, 128), (300, 401), (511, 17), (129, 127)]
)
def test_logits_are_resized_bilinearly_with_half_pixel_centres(hw: tuple[int, int]) -> None:
    logits = np.random.default_rng(3).standard_normal((128, 128)).astype(np.float32)
    resized = upsample_logits(logits, hw)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, bilinear(logits, hw), atol=ATOL)


def test_logits_are_upsampled_before_the_threshold() -> None:
    # Between -1 and 3 the zero is at a quarter: threshold first would put it at a half.
    logits = np.array([[-1, 3]], np.float32)[None, None]
    masks = masks_from_logits(logits, (1, 8), 0.0)
    # Pixel centres in units of cells: -0.44, -0.19, 0.06, 0.31, ...; zero is at 0.25.
    np.testing.assert_array_equal(masks, [[[[False] * 3 + [True] * 5]]])


def test_the_threshold_itself_is_outside() -> None:
    logits = np.array([[0.5, 0.6]], np.float32)[None, None]
    np.testing.assert_array_equal(masks_from_logits(logits, (1, 2), 0.5), [[[[False, True]]]])


def test_every_prompt_and_mask_is_upsampled() -> None:
    logits = np.random.default_rng(4).standard_normal((2, 3, 8, 8)).astype(np.float32)
    masks = masks_from_logits(logits, (20, 30), 0.0)
    assert masks.shape == (2, 3, 20, 30)
    assert masks.dtype == np.bool_
    np.testing.assert_array_equal(masks[1, 2], upsample_logits(logits[1, 2], (20, 30)) > 0)
