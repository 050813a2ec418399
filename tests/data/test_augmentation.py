"""Augmentation moves frame and mask together, and does nothing where it is switched off."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samus_edge.data.augmentation import AugmentationConfig, augment_appearance, augment_geometry

MASK_SIZE = 256
MIN_OVERLAP = 0.97
"""IoU of the moved mask with the moved image: their outlines are rasterised at different sizes."""

IDENTITY = AugmentationConfig(
    **{
        field.name: 1.0 if field.name == "min_resolution" else 0.0
        for field in dataclasses.fields(AugmentationConfig)
    }
)


def bright_lesion(hw: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A frame that is white exactly where its mask is: an ellipse off the centre, and a notch."""
    rows, columns = np.mgrid[0 : hw[0], 0 : hw[1]]
    y, x = rows / hw[0] - 0.45, columns / hw[1] - 0.55
    mask = ((x / 0.3) ** 2 + (y / 0.2) ** 2 < 1) & ~((x > 0) & (y > 0.05))
    return np.where(mask, 255, 0).astype(np.uint8), mask


def overlap(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum())


@given(seed=st.integers(0, 10_000), hw=st.sampled_from([(300, 300), (471, 562), (600, 330)]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_frame_and_mask_move_together(seed: int, hw: tuple[int, int]) -> None:
    frame, mask = bright_lesion(hw)
    rng = np.random.default_rng(seed)
    moved, (moved_mask,) = augment_geometry(frame, [mask], AugmentationConfig(), rng, MASK_SIZE)
    assert moved.dtype == np.uint8 and moved_mask.dtype == np.bool_
    assert moved_mask.shape == (MASK_SIZE, MASK_SIZE)
    assert all(32 <= side <= limit for side, limit in zip(moved.shape, hw, strict=True))
    # the frame as the model sees it: resized to the mask's size with half-pixel centres
    seen = cv2.resize(moved.astype(np.float32), (MASK_SIZE, MASK_SIZE)) > 127
    assert overlap(seen, moved_mask) >= MIN_OVERLAP


def geometry(hw: tuple[int, int], **changes: float) -> npt.NDArray[np.bool_]:
    """The mask of `bright_lesion` after the identity with some strengths switched on."""
    frame, mask = bright_lesion(hw)
    config = dataclasses.replace(IDENTITY, **changes)
    _, (moved,) = augment_geometry(frame, [mask], config, np.random.default_rng(0), MASK_SIZE)
    return moved


def test_without_strengths_the_frame_stays_as_it_is() -> None:
    frame, mask = bright_lesion((180, 240))
    frame[::3] = np.arange(240, dtype=np.uint8)
    rng = np.random.default_rng(0)
    same, (moved_mask,) = augment_geometry(frame, [mask], IDENTITY, rng, MASK_SIZE)
    np.testing.assert_array_equal(same, frame)
    expected = cv2.resize(mask.astype(np.uint8) * 255, (MASK_SIZE, MASK_SIZE)) > 127
    assert overlap(moved_mask, expected) >= 0.999
    every_level = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(augment_appearance(every_level, IDENTITY, rng), every_level)


def test_a_flip_mirrors_left_and_right() -> None:
    expected = geometry((200, 200))[:, ::-1]
    assert overlap(geometry((200, 200), flip_probability=1.0), expected) >= MIN_OVERLAP


def test_a_rotation_in_a_wide_frame_keeps_shapes() -> None:
    """It turns in pixels of the frame, not in those of the squeezed model input."""
    hw = (200, 400)
    rows, columns = np.mgrid[0 : hw[0], 0 : hw[1]]
    disc = (rows - 99.5) ** 2 + (columns - 199.5) ** 2 < 60**2
    config = dataclasses.replace(IDENTITY, rotation_deg=45.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        frame = np.where(disc, 255, 0).astype(np.uint8)
        turned, _ = augment_geometry(frame, [disc], config, rng, MASK_SIZE)
        assert overlap(turned > 127, disc) >= MIN_OVERLAP


def test_zoom_changes_the_area_by_its_square() -> None:
    config = dataclasses.replace(IDENTITY, log_scale=0.3)
    disc = np.hypot(*(np.mgrid[0:200, 0:200] - 99.5)) < 40
    frame = np.where(disc, 255, 0).astype(np.uint8)
    ratios = []
    for seed in range(20):
        _, (zoomed,) = augment_geometry(frame, [disc], config, np.random.default_rng(seed), 200)
        ratios.append(zoomed.sum() / disc.sum())
    assert np.exp(-0.6) * 0.97 <= min(ratios) < 0.8
    assert 1.25 < max(ratios) <= np.exp(0.6) * 1.03


def test_resolution_leaves_the_field_of_view() -> None:
    frame, mask = bright_lesion((400, 300))
    config = dataclasses.replace(IDENTITY, resolution_probability=1.0, min_resolution=0.35)
    rng = np.random.default_rng(1)
    small, (moved_mask,) = augment_geometry(frame, [mask], config, rng, MASK_SIZE)
    assert small.shape[0] < 400 and abs(small.shape[0] / small.shape[1] - 4 / 3) < 0.02
    assert overlap(moved_mask, geometry((400, 300))) >= MIN_OVERLAP


def test_outside_the_original_frame_is_black() -> None:
    white, mask = np.full((100, 100), 255, dtype=np.uint8), np.ones((100, 100), dtype=np.bool_)
    config = dataclasses.replace(IDENTITY, translation=0.12)
    rng = np.random.default_rng(3)
    shifted, (shifted_mask,) = augment_geometry(white, [mask], config, rng, 100)
    assert (shifted == 0).any() and (shifted == 255).any()
    assert overlap(shifted > 127, shifted_mask) >= MIN_OVERLAP


def test_all_masks_move_alike_and_none_is_needed() -> None:
    frame, mask = bright_lesion((150, 200))
    config = AugmentationConfig(elastic_probability=1.0)

    def move(masks: list[npt.NDArray[np.bool_]]) -> tuple[Any, list[npt.NDArray[np.bool_]]]:
        return augment_geometry(frame, masks, config, np.random.default_rng(4), MASK_SIZE)

    alone, (expected,) = move([mask])
    together, (first, second, inverse) = move([mask, mask, ~mask])
    bare, none = move([])
    assert none == []
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(bare, alone)
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)
    assert not (inverse & expected).any()


def test_an_elastic_deformation_bends_without_tearing_and_no_farther_than_it_may() -> None:
    """A grid of dots, each of which is found again near its place; the shifts vary smoothly."""
    side, spacing, largest = 240, 40, 0.04
    frame = np.zeros((side, side), dtype=np.uint8)
    places = [(y, x) for y in range(40, 220, spacing) for x in range(40, 220, spacing)]
    for y, x in places:
        frame[y - 3 : y + 4, x - 3 : x + 4] = 255
    config = dataclasses.replace(IDENTITY, elastic_probability=1.0, elastic_displacement=largest)
    bent, _ = augment_geometry(frame, [], config, np.random.default_rng(0), MASK_SIZE)
    assert bent.shape == frame.shape
    count, _, _, centres = cv2.connectedComponentsWithStats((bent > 100).astype(np.uint8))[:4]
    assert count - 1 == len(places)
    shifts = []
    for y, x in places:
        distances = np.hypot(*(centres[1:] - (x, y)).T)
        shifts.append(float(distances.min()))
    # bicubic interpolation between control points may overshoot a little
    assert max(shifts) <= 1.3 * largest * side * np.sqrt(2)
    assert max(shifts) > 2.0


def test_an_elastic_deformation_comes_as_often_as_asked() -> None:
    frame, mask = bright_lesion((100, 100))
    config = dataclasses.replace(IDENTITY, elastic_probability=0.4, elastic_displacement=0.04)
    changed = [
        (augment_geometry(frame, [mask], config, np.random.default_rng(s), 64)[0] != frame).any()
        for s in range(200)
    ]
    assert 0.3 < np.mean(changed) < 0.5


def test_the_same_seed_gives_the_same_frame() -> None:
    frame, mask = bright_lesion((120, 160))

    def run(seed: int) -> list[npt.NDArray[Any]]:
        rng = np.random.default_rng(seed)
        moved, (moved_mask,) = augment_geometry(frame, [mask], AugmentationConfig(), rng, MASK_SIZE)
        return [augment_appearance(moved, AugmentationConfig(), rng), moved_mask]

    for one, again in zip(run(5), run(5), strict=True):
        np.testing.assert_array_equal(one, again)
    assert any(
        one.shape != other.shape or (one != other).any()
        for one, other in zip(run(5), run(6), strict=True)
    )


@pytest.mark.parametrize("hw", [(1, 1), (1, 50), (50, 1), (33, 471)])
def test_appearance_keeps_size_and_type_of_any_frame(hw: tuple[int, int]) -> None:
    always = {
        field.name: 1.0
        for field in dataclasses.fields(AugmentationConfig)
        if "probability" in field.name
    }
    frame = np.random.default_rng(0).integers(0, 256, hw, dtype=np.uint8)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        changed = augment_appearance(frame, AugmentationConfig(**always), rng)
        assert changed.shape == hw and changed.dtype == np.uint8


@pytest.mark.parametrize(
    ("strength", "value", "holds"),
    [
        ("log_gain", 0.5, lambda ratio: np.ptp(ratio) < 0.05),  # one factor for all
        ("attenuation_probability", 1.0, lambda ratio: np.ptp(ratio[:, 0]) > 0.05),
        ("attenuation_probability", 1.0, lambda ratio: np.ptp(ratio, axis=1).max() < 0.05),
        ("shadow_probability", 1.0, lambda ratio: ratio.max() < 1.02 and ratio.min() < 0.8),
        ("shadow_probability", 1.0, lambda ratio: (np.diff(ratio, axis=0) < 0.02).all()),
    ],
)
def test_what_a_strength_does_to_a_flat_frame(strength: str, value: float, holds: Any) -> None:
    flat = np.full((64, 64), 100, dtype=np.uint8)
    config = dataclasses.replace(IDENTITY, **{strength: value})
    changed = augment_appearance(flat, config, np.random.default_rng(2))
    assert holds(changed / 100.0)


def test_speckle_is_noise_around_the_signal() -> None:
    flat = np.full((256, 256), 100, dtype=np.uint8)
    config = dataclasses.replace(IDENTITY, speckle_probability=1.0, speckle_sigma=0.3)
    changed = augment_appearance(flat, config, np.random.default_rng(0)) / 100.0
    assert abs(changed.mean() - 1.0) < 0.02
    assert 0.01 < changed.std() <= 0.3
    black = augment_appearance(np.zeros_like(flat), config, np.random.default_rng(0))
    assert not black.any()  # multiplicative


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip_probability", -0.1),
        ("speckle_probability", 1.5),
        ("rotation_deg", -1.0),
        ("elastic_probability", 1.01),
        ("elastic_displacement", -0.1),
        ("min_resolution", 0.0),
        ("min_resolution", 1.1),
        ("log_gain", "strong"),
    ],
)
def test_a_bad_strength_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        AugmentationConfig(**{name: value})
