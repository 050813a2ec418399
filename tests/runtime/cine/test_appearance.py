"""Finding what was seen before."""

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime.cine.appearance import Appearance
from samus_edge.runtime.cine.box_geometry import box_in_frame, moved_box
from samus_edge.runtime.cine.lesion_contrast import lesion_contrast
from samus_edge.runtime.mask_box import box_around

Frame = npt.NDArray[np.uint8]


@pytest.fixture
def frame() -> Frame:
    """Smooth noise, (160, 200)."""
    noise = np.random.default_rng(1).standard_normal((20, 25)).astype(np.float32)
    import cv2

    large = cv2.resize(noise, (200, 160), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 40 * large, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shift", [(0, 0), (7, -4), (-12, 10), (3, 15)])
def test_the_shift_is_found(frame: Frame, shift: tuple[int, int]) -> None:
    moved = np.roll(frame, (shift[1], shift[0]), (0, 1))
    found = Appearance(frame, (70, 60, 120, 100)).find(moved, 0.5)
    assert found.shift == pytest.approx(shift, abs=1)
    assert found.similarity > 0.95


def test_far_away_takes_looking_everywhere(frame: Frame) -> None:
    moved = np.roll(frame, 60, 1)
    appearance = Appearance(frame, (30, 60, 70, 100))
    assert appearance.find(moved).shift == pytest.approx((60, 0), abs=1)
    assert appearance.find(moved, 0.1).similarity < 0.9
    assert appearance.find(moved, 0.1, around=(58, 0)).shift == pytest.approx((60, 0), abs=1)


def test_brightness_does_not_matter(frame: Frame) -> None:
    darker = (frame * 0.6 + 10).astype(np.uint8)
    assert Appearance(frame, (70, 60, 120, 100)).find(darker, 0.2).similarity > 0.99


def test_what_is_flat_is_not_recognised() -> None:
    flat = np.full((100, 100), 80, np.uint8)
    appearance = Appearance(flat, (20, 20, 60, 60))
    assert not appearance.is_usable
    assert appearance.find(flat).similarity == 0


def test_another_size_is_refused(frame: Frame) -> None:
    with pytest.raises(ValueError, match="A loop has one size"):
        Appearance(frame, (70, 60, 120, 100)).find(frame[:-1])


def test_boxes_by_hand() -> None:
    assert moved_box((10, 20, 30, 60), (5, -5), (1, 0.5)) == (15, 25, 35, 45)
    assert box_in_frame((-5, 10, 15, 30), (40, 50)) == (-0.5, 10, 15, 30)
    assert box_in_frame((-18, 10, 2, 30), (40, 50)) is None
    mask = np.zeros((40, 50), np.bool_)
    mask[3:9, 4:20] = True
    assert box_around(mask) == (4, 3, 19, 8)
    assert box_around(mask & False) is None


def test_contrast_by_hand() -> None:
    frame = np.full((60, 60), 100, np.uint8)
    mask = np.zeros((60, 60), np.bool_)
    mask[20:40, 20:40] = True
    assert lesion_contrast(frame, mask) == 0
    frame[mask] = 40
    assert lesion_contrast(frame, mask) == 60  # no spread but the one grey level
    assert lesion_contrast(255 - frame, mask) == -60
    assert lesion_contrast(frame, mask & False) == 0
    assert lesion_contrast(frame, mask | True) == 0
