"""What the mask decoder is fed, and what is made of its answers."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from samus_edge.runtime.backends.backend import check_feeds
from samus_edge.runtime.bundle.manifest import MASK_DECODER, Manifest
from samus_edge.runtime.prediction import (
    mask_decoder_feeds,
    masks_from_logits,
    predict_masks,
    upsample_logits,
)
from samus_edge.runtime.prompts import DecoderPrompts, Prompts, check_prompts

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


def disc(row: float, column: float, radius: float, logit: float = 5.0) -> npt.NDArray[np.float32]:
    """(128, 128) logits of a disc."""
    rows, columns = np.mgrid[:128, :128]
    inside = np.hypot(rows - row, columns - column) < radius
    return np.where(inside, logit, -logit).astype(np.float32)


class Decoder:
    """Answers every prompt with the same logits, and keeps what it was asked."""

    def __init__(self, *logits: npt.NDArray[np.float32], iou: float = 0.9) -> None:
        self.logits = np.stack(logits)  # (M, h, w)
        self.iou = iou
        self.asked: list[Prompts] = []

    def __call__(
        self, prompts: Prompts, kept: slice
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        self.asked.append(prompts)
        count = kept.stop - kept.start
        logits = np.repeat(self.logits[None, :count], len(prompts), axis=0)
        return logits, np.full((len(prompts), count), self.iou, np.float32)


def labels_asked(decoder: Decoder, row: int = 0) -> list[list[int]]:
    """The labels without padding of a prompt, of each run of the decoder."""
    return [[int(v) for v in asked.point_labels[row] if v != -1] for asked in decoder.asked]


def test_beside_a_box_each_click_refines_the_mask_before_it() -> None:
    decoder = Decoder(disc(64, 64, 30))
    prompts = check_prompts(
        (128, 128),
        boxes=[[30, 30, 98, 98]],
        point_coords=[[[64, 64], [0, 0], [2, 2]]],
        point_labels=[[1, -1, 0]],
    )
    logits, ious = predict_masks(decoder, prompts, 0.0, multimask_output=False)
    assert labels_asked(decoder) == [[], [1], [1, 0]]
    assert decoder.asked[0].mask_input is None
    for later in decoder.asked[1:]:
        assert later.mask_input is not None
        np.testing.assert_array_equal(later.mask_input[0, 0], decoder.logits[0])
    np.testing.assert_array_equal(logits[0, 0], decoder.logits[0])  # nothing to mend
    np.testing.assert_array_equal(ious, np.array([[0.9]], np.float32))


def test_without_a_box_the_first_step_ends_with_the_first_foreground_point() -> None:
    decoder = Decoder(disc(64, 64, 30))
    points = [[[2, 2], [64, 64], [3, 3], [60, 60]]]
    prompts = check_prompts((128, 128), point_coords=points, point_labels=[[0, 1, 0, 1]])
    predict_masks(decoder, prompts, 0.0, multimask_output=False)
    assert labels_asked(decoder) == [[0, 1], [0, 1, 0], [0, 1, 0, 1]]


def test_with_a_mask_of_the_callers_all_points_go_in_at_once() -> None:
    decoder = Decoder(disc(64, 64, 30))
    earlier = np.full((1, 1, 128, 128), 7.0, np.float32)
    prompts = check_prompts(
        (128, 128),
        boxes=[[30, 30, 98, 98]],
        point_coords=[[[64, 64], [2, 2]]],
        point_labels=[[1, 0]],
        mask_input=earlier,
    )
    predict_masks(decoder, prompts, 0.0, multimask_output=False)
    assert labels_asked(decoder) == [[1, 0]]
    np.testing.assert_array_equal(decoder.asked[0].mask_input, earlier)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("hw", [(40, 50), (128, 128), (256, 256), (473, 561), (97, 801)])
def test_clicks_are_obeyed_at_any_size(hw: tuple[int, int], threshold: float) -> None:
    generator = np.random.default_rng(hw[0])
    noise = generator.standard_normal((8, 128, 128)).astype(np.float32) * 6
    for smooth, logits in enumerate(noise):
        decoder = Decoder(cv2.GaussianBlur(logits, (0, 0), 0.3 + smooth))
        cells = generator.permutation(100)[:5]  # clicks of a 10 x 10 grid: none beside another
        cell_rows, cell_columns = np.divmod(cells, 10)
        xy = (np.stack([cell_columns, cell_rows], axis=1) + 0.5) * np.array(hw[::-1]) / 10 - 0.5
        labels = np.array([1, 0, 1, 0, 0])
        prompts = check_prompts(hw, point_coords=xy, point_labels=labels)
        found, _ = predict_masks(decoder, prompts, threshold, multimask_output=False)
        (mask,) = masks_from_logits(found, hw, threshold)[:, 0]
        columns, rows = np.floor(xy + 0.5).astype(int).T
        np.testing.assert_array_equal(mask[rows, columns], labels == 1)
        if min(hw) < 128 or smooth < 2:  # a bridge of one logit may fall between the pixels
            continue
        # Each part holds a foreground click, or is within two logits of one.
        parts, count = ndimage.label(mask)
        reach = 2 * max(hw) // 128 + 1
        held = {
            part
            for x, y in zip(columns[labels == 1], rows[labels == 1], strict=True)
            for part in np.unique(
                parts[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            )
        }
        assert set(range(1, count + 1)) <= held


def test_of_a_box_the_largest_part_that_reaches_into_it_stays() -> None:
    lesion, crumb, elsewhere = disc(40, 40, 15), disc(60, 60, 4), disc(100, 100, 25)
    decoder = Decoder(np.maximum.reduce([lesion, crumb, elsewhere]))
    prompts = check_prompts((128, 128), boxes=[[20, 20, 64, 64]])
    found, ious = predict_masks(decoder, prompts, 0.0, multimask_output=False)
    np.testing.assert_array_equal(found[0, 0] > 0, lesion > 0)
    assert ious[0, 0] < 0.9 * (lesion > 0).sum() / (elsewhere > 0).sum()
    both = check_prompts((128, 128), boxes=[[20, 20, 64, 64]], point_coords=[[[100, 100]]])
    found, _ = predict_masks(decoder, both, 0.0, multimask_output=False)
    np.testing.assert_array_equal(found[0, 0] > 0, np.maximum(lesion, elsewhere) > 0)


def test_a_mask_beside_its_box_is_kept() -> None:
    decoder = Decoder(disc(100, 100, 25))
    prompts = check_prompts((128, 128), boxes=[[20, 20, 64, 64]])
    found, ious = predict_masks(decoder, prompts, 0.0, multimask_output=False)
    np.testing.assert_array_equal(found[0, 0], decoder.logits[0])
    assert ious[0, 0] == np.float32(0.9)


def test_all_alternatives_obey() -> None:
    decoder = Decoder(*(disc(64, 64, radius) for radius in (10, 20, 30)))
    prompts = check_prompts((128, 128), point_coords=[[[64, 64], [64, 80]]], point_labels=[[1, 0]])
    found, ious = predict_masks(decoder, prompts, 0.0, multimask_output=True)
    assert found.shape == (1, 3, 128, 128)
    assert (found[0, :, 64, 64] > 0).all() and not (found[0, :, 80, 64] > 0).any()
    assert ious[0, 0] == np.float32(0.9)  # the first was right as it came
    assert (ious[0, 1:] < 0.9).all()
