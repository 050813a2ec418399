"""Live frames: order, drops, errors, and a clean end."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.benchmarking.synthetic_cine import TrueFrame
from samus_edge.errors import BackendError
from samus_edge.runtime import Segmenter
from samus_edge.runtime.cine.lesion_tracker import Box
from samus_edge.runtime.cine.stream import BoundedQueue, QueueClosedError, Stream


def test_closing_wakes_who_waits() -> None:
    full: BoundedQueue[int] = BoundedQueue(1, drops_oldest=False)
    full.put(0)
    empty: BoundedQueue[int] = BoundedQueue(1, drops_oldest=False)
    ended: list[str] = []

    def wait(work: object, name: str) -> None:
        try:
            work()  # type: ignore[operator]
        except QueueClosedError:
            ended.append(name)

    threads = [
        threading.Thread(target=wait, args=(lambda: full.put(1), "put")),
        threading.Thread(target=wait, args=(empty.get, "get")),
    ]
    for thread in threads:
        thread.start()
    assert full.close(discards=True) == 1
    empty.close()
    for thread in threads:
        thread.join(5)
    assert sorted(ended) == ["get", "put"]


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        BoundedQueue[int](0, drops_oldest=True)


WAIT = 30.0


class Gated:
    """A segmenter whose encoder waits to be let on, frame by frame."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.backend = segmenter.backend
        self.may_go = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)
        self.fails = False

    def encode(self, image: npt.NDArray[np.uint8]) -> Any:
        """Wait, then encode."""
        self.has_begun.release()
        assert self.may_go.acquire(timeout=WAIT)
        if self.fails:
            raise BackendError("the GPU is gone")
        return self._segmenter.encode(image)

    def predict(self, *arguments: Any, **prompts: Any) -> Any:
        """At once."""
        return self._segmenter.predict(*arguments, **prompts)


@pytest.fixture
def gated(segmenter: Segmenter) -> Any:
    """See there."""
    return Gated(segmenter)


@pytest.mark.parametrize("overlaps", [True, False])
def test_results_are_those_of_a_tracker_in_order(
    segmenter: Segmenter, moving: list[TrueFrame], box: Box, overlaps: bool
) -> None:
    from samus_edge.runtime.cine.lesion_tracker import LesionTracker

    tracker = LesionTracker(segmenter)
    with Stream(segmenter, drops_frames=False, results=100, overlaps=overlaps) as stream:
        stream.mark(box)
        numbers = [stream.submit(frame.image) for frame in moving[:8]]
        stream.close(drains=True)
        results = list(stream)
        statistics = stream.statistics()
    assert numbers == [result.number for result in results] == list(range(8))
    for index, result in enumerate(results):
        image = moving[index].image
        expected = tracker.start(image, box) if index == 0 else tracker.update(image)
        assert result.tracked is not None
        np.testing.assert_array_equal(result.tracked.mask, expected.mask)
        assert result.latency_ms >= result.encode_ms > 0
    assert (statistics.submitted, statistics.done, statistics.dropped) == (8, 8, 0)
    assert statistics.latency_p50_ms is not None
    assert statistics.frames_per_second is not None


def test_the_newest_frame_wins(gated: Any, moving: list[TrueFrame]) -> None:
    with Stream(gated, capacity=1, overlaps=False) as stream:
        stream.submit(moving[0].image)
        assert gated.has_begun.acquire(timeout=WAIT)  # it is being encoded
        for frame in moving[1:6]:
            stream.submit(frame.image)
        for _ in range(2):
            gated.may_go.release()
        assert stream.result(WAIT).number == 0
        assert stream.result(WAIT).number == 5
        statistics = stream.statistics()
        assert (statistics.submitted, statistics.dropped, statistics.done) == (6, 4, 2)


def test_or_the_source_waits(gated: Any, moving: list[TrueFrame]) -> None:
    with Stream(gated, capacity=1, drops_frames=False, overlaps=False) as stream:
        stream.submit(moving[0].image)
        assert gated.has_begun.acquire(timeout=WAIT)
        stream.submit(moving[1].image)
        with pytest.raises(TimeoutError, match="frame 2 found no room"):
            stream.submit(moving[2].image, timeout=0.02)
        gated.may_go.release(2)
        assert [stream.result(WAIT).number for _ in range(2)] == [0, 1]
        assert stream.statistics().dropped == 1


def test_results_that_nobody_takes_are_dropped_and_counted(
    segmenter: Segmenter, moving: list[TrueFrame]
) -> None:
    stream = Stream(segmenter, capacity=10, results=2)
    for frame in moving[:6]:
        stream.submit(frame.image)
    stream.close(drains=True)
    assert [result.number for result in stream] == [4, 5]
    assert stream.statistics().results_dropped == 4


@pytest.mark.parametrize("overlaps", [True, False])
def test_an_error_reaches_everybody(gated: Any, moving: list[TrueFrame], overlaps: bool) -> None:
    stream = Stream(gated, overlaps=overlaps)
    gated.fails = True
    stream.submit(moving[0].image)
    gated.may_go.release()
    with pytest.raises(BackendError, match="the GPU is gone"):
        list(stream)
    with pytest.raises(BackendError, match="the GPU is gone"):
        stream.submit(moving[1].image)
    with pytest.raises(BackendError, match="the GPU is gone"):
        stream.predict(boxes=[[1, 1, 5, 5]])
    stream.close(timeout=WAIT)


@pytest.mark.parametrize("overlaps", [True, False])
def test_closing_while_busy_ends_soon(gated: Any, moving: list[TrueFrame], overlaps: bool) -> None:
    stream = Stream(gated, capacity=3, drops_frames=False, results=1, overlaps=overlaps)
    for frame in moving[:3]:
        stream.submit(frame.image)
    assert gated.has_begun.acquire(timeout=WAIT)
    with pytest.raises(TimeoutError, match="has not stopped"):
        stream.close(timeout=0.01)
    gated.may_go.release(3)
    stream.close(timeout=WAIT)
    stream.close()  # once more is fine
    with pytest.raises(RuntimeError, match="stream is closed"):
        stream.submit(moving[0].image)
    statistics = stream.statistics()
    assert statistics.submitted == statistics.done + statistics.dropped == 4


def test_closing_does_not_wait_for_results_to_be_taken(
    segmenter: Segmenter, moving: list[TrueFrame]
) -> None:
    stream = Stream(segmenter, capacity=6, drops_frames=False, results=1)
    for frame in moving[:5]:
        stream.submit(frame.image)
    stream.close(timeout=WAIT)


def test_lesions_are_marked_and_unmarked_while_it_runs(
    segmenter: Segmenter, moving: list[TrueFrame], box: Box
) -> None:
    with Stream(segmenter, drops_frames=False) as stream:

        def state_of(frame: TrueFrame) -> str | None:
            stream.submit(frame.image)
            tracked = stream.result(WAIT).tracked
            return None if tracked is None else tracked.state

        assert state_of(moving[0]) is None
        stream.mark(box)
        assert state_of(moving[0]) == "tracking"
        assert state_of(moving[1]) == "tracking"
        stream.unmark()
        assert state_of(moving[2]) is None
        stream.mark((9000, 9000, 9100, 9100))
        assert state_of(moving[3]) == "stopped"
        assert state_of(moving[4]) is None
        stream.mark(box)
        assert state_of(moving[0]) == "tracking"


def test_masks_of_the_newest_frame_may_be_asked_for(
    segmenter: Segmenter, moving: list[TrueFrame], box: Box
) -> None:
    with Stream(segmenter) as stream:
        with pytest.raises(RuntimeError, match="no frame is encoded yet"):
            stream.predict(boxes=[box])
        stream.submit(moving[0].image)
        stream.result(WAIT)
        number, prediction = stream.predict(boxes=[box])
    expected = segmenter.segment(moving[0].image, boxes=[box])
    assert number == 0
    np.testing.assert_array_equal(prediction.masks, expected.masks)


def test_what_is_no_frame_is_refused(segmenter: Segmenter) -> None:
    with Stream(segmenter) as stream:
        with pytest.raises(TypeError):
            stream.submit(np.zeros((5, 5)))  # type: ignore[arg-type]
        assert stream.statistics().submitted == 0
        with pytest.raises(TimeoutError):
            stream.result(timeout=0.01)
