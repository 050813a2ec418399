"""A real lesion under known motion."""

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.benchmarking.synthetic_cine import TrueFrame
from samus_edge.runtime import Segmenter
from samus_edge.runtime.cine.box_geometry import Box
from samus_edge.runtime.cine.lesion_tracker import LesionTracker, TrackedFrame, TrackerOptions

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
