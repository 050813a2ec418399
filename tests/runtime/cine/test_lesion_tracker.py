"""A real lesion under known motion."""

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.benchmarking.synthetic_cine import TrueFrame
from samus_edge.runtime import Segmenter
from samus_edge.runtime.cine.lesion_tracker import (
    Appearance,
    Box,
    LesionTracker,
    TrackedFrame,
    TrackerOptions,
    box_in_frame,
    lesion_contrast,
    moved_box,
)
from samus_edge.runtime.measurement.lesion_measurements import box_around

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


LEAST_DICE = 0.9  # the model's own mask of the still frame is the truth


def dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    return 2 * int((first & second).sum()) / (int(first.sum()) + int(second.sum()))


def follow(tracker: LesionTracker, frames: list[TrueFrame], box: Box) -> list[TrackedFrame]:
    first = tracker.start(frames[0].image, box)
    return [first, *(tracker.update(frame.image) for frame in frames[1:])]


def test_it_is_followed(segmenter: Segmenter, moving: list[TrueFrame], box: Box) -> None:
    found = follow(LesionTracker(segmenter), moving, box)
    assert [frame.index for frame in found] == list(range(len(moving)))
    for frame, true in zip(found, moving, strict=True):
        assert frame.state in ("tracking", "uncertain")
        assert frame.mask is not None
        assert dice(frame.mask, true.mask) > LEAST_DICE
    assert sum(frame.state == "tracking" for frame in found) > 0.8 * len(found)


def test_where_it_is_hidden_there_is_no_mask_and_then_it_is_found_again(
    segmenter: Segmenter, hidden: list[TrueFrame], box: Box
) -> None:
    found = follow(LesionTracker(segmenter), hidden, box)
    for frame, true in zip(found, hidden, strict=True):
        if true.visibility == 0:
            assert (frame.state, frame.mask, frame.box) == ("lost", None, None)
            assert frame.reason != ""
        elif frame.mask is not None and true.visibility == 1:
            assert dice(frame.mask, true.mask) > LEAST_DICE
    again = next(frame for frame in found if frame.was_found)
    assert again.state == "uncertain"
    assert found[-1].state == "tracking"


def test_it_stops_looking_at_last(segmenter: Segmenter, hidden: list[TrueFrame], box: Box) -> None:
    tracker = LesionTracker(segmenter, TrackerOptions(most_lost=2))
    found = follow(tracker, hidden, box)
    assert found[-1].state == tracker.state == "stopped"
    assert any("mark it again" in frame.reason for frame in found)
    assert tracker.start(hidden[0].image, box).state == "tracking"  # marked again


def test_a_black_frame_is_no_lesion(
    segmenter: Segmenter, moving: list[TrueFrame], box: Box
) -> None:
    tracker = LesionTracker(segmenter)
    tracker.start(moving[0].image, box)
    assert tracker.update(np.zeros_like(moving[0].image)).state == "lost"
    assert tracker.update(moving[1].image).was_found


def test_a_lesion_that_leaves_the_frame_is_lost(
    segmenter: Segmenter, lesion: tuple[npt.NDArray[np.uint8], object], box: Box
) -> None:
    image = lesion[0]
    tracker = LesionTracker(segmenter)
    tracker.start(image, box)
    states = []
    for step in range(1, 13):
        shifted = np.full_like(image, 20)
        across = 25 * step
        if across < image.shape[1]:
            shifted[:, across:] = image[:, :-across]
        states.append(tracker.update(shifted).state)
    assert states[0] in ("tracking", "uncertain")
    assert states[-1] == "lost"


def test_embeddings_may_be_given(segmenter: Segmenter, moving: list[TrueFrame], box: Box) -> None:
    own, given = LesionTracker(segmenter), LesionTracker(segmenter)
    for index, frame in enumerate(moving[:3]):
        embedding = segmenter.encode(frame.image)
        if index == 0:
            first, second = (
                own.start(frame.image, box),
                given.start(frame.image, box, embedding=embedding),
            )
        else:
            first, second = own.update(frame.image), given.update(frame.image, embedding=embedding)
        np.testing.assert_array_equal(first.mask, second.mask)


def test_bad_use_is_refused(segmenter: Segmenter, moving: list[TrueFrame], box: Box) -> None:
    tracker = LesionTracker(segmenter)
    with pytest.raises(RuntimeError, match="Call start"):
        tracker.update(moving[0].image)
    with pytest.raises(ValueError, match="outside the image"):
        tracker.start(moving[0].image, (900, 900, 950, 950))
    tracker.start(moving[0].image, box)
    with pytest.raises(ValueError, match="A loop has one size"):
        tracker.update(moving[0].image[:-8])


def test_the_cine_is_what_it_says(hidden: list[TrueFrame], lesion: tuple[object, object]) -> None:
    mask = lesion[1]
    assert dice(hidden[0].mask, mask) > 0.99  # type: ignore[arg-type]
    assert [frame.visibility for frame in hidden][6:19] == [1, 0.5, *[0] * 9, 0.5, 1]
    assert not np.array_equal(hidden[0].image, hidden[1].image)
