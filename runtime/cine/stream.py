"""Live frames in, lesions out: the newest frame first, encoding and decoding at the same time."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BackendError, BadArgumentError
from samus_edge.runtime.backends.backend import default_threads
from samus_edge.runtime.cine.lesion_tracker import Box, LesionTracker, TrackedFrame, TrackerOptions
from samus_edge.runtime.images.image_io import GreyFrame, grey_frame
from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.segmenter import Segmenter

_KEPT = 1000


@dataclass(frozen=True)
class StreamStatistics:
    """Counts since the start, and times of the last thousand frames.

    Attributes:
        submitted: frames that came in.
        dropped: of them, without a result because newer ones came.
        done: of them, with a result.
        results_dropped: results that nobody took before newer ones came.
        latency_p50_ms: from `submit` to the result, milliseconds; None before the first.
        latency_p90_ms: of ten frames one takes longer.
        latency_p99_ms: of a hundred frames one takes longer.
        frames_per_second: results, over the last thousand; None before the second.
    """

    submitted: int
    dropped: int
    done: int
    results_dropped: int
    latency_p50_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    frames_per_second: float | None

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


class StreamCounters:
    """Counts from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._submitted = self._dropped = self._done = self._results_dropped = 0
        self._latencies: deque[float] = deque(maxlen=_KEPT)
        self._ends: deque[float] = deque(maxlen=_KEPT)

    def submitted(self) -> int:
        """Count a frame; gives its number, from 0."""
        with self._lock:
            self._submitted += 1
            return self._submitted - 1

    def dropped(self, count: int = 1) -> None:
        """Count frames without a result."""
        with self._lock:
            self._dropped += count

    def result_dropped(self) -> None:
        """Count a result that nobody took."""
        with self._lock:
            self._results_dropped += 1

    def done(self, submitted_at: float, now: float) -> None:
        """Count a result; times in seconds of one clock."""
        with self._lock:
            self._done += 1
            self._latencies.append(now - submitted_at)
            self._ends.append(now)

    def statistics(self) -> StreamStatistics:
        """All of it, as it is now."""
        with self._lock:
            p50: float | None = None
            p90: float | None = None
            p99: float | None = None
            if self._latencies:
                p50, p90, p99 = (
                    float(1000 * value) for value in np.percentile(self._latencies, (50, 90, 99))
                )
            span = self._ends[-1] - self._ends[0] if len(self._ends) > 1 else 0.0
            return StreamStatistics(
                self._submitted,
                self._dropped,
                self._done,
                self._results_dropped,
                p50,
                p90,
                p99,
                (len(self._ends) - 1) / span if span > 0 else None,
            )


Item = TypeVar("Item")


class QueueClosedError(Exception):
    """Nothing more can be put into or taken from a queue."""


class BoundedQueue(Generic[Item]):
    """First in, first out.

    Args:
        capacity: items that wait at most, at least 1.
        drops_oldest: whether a full queue drops its oldest item for a new one; else `put` waits.

    Raises:
        BadArgumentError: if the capacity is below 1.
    """

    def __init__(self, capacity: int, *, drops_oldest: bool) -> None:
        if capacity < 1:
            raise BadArgumentError(f"the capacity of a queue must be at least 1, got {capacity}.")
        self._items: deque[Item] = deque()
        self._capacity, self._drops_oldest = capacity, drops_oldest
        self._changed = threading.Condition()
        self._is_closed = False

    def __len__(self) -> int:
        """Items that wait."""
        with self._changed:
            return len(self._items)

    def put(self, item: Item, timeout: float | None = None) -> Item | None:
        """Add an item.

        Args:
            item: to be taken later.
            timeout: seconds to wait for room; None for ever. Of no effect where the oldest is
                dropped.

        Returns:
            The item that was dropped for it, or None.

        Raises:
            TimeoutError: if there is no room in that time.
            QueueClosedError: if the queue is closed, also while it waits.
        """
        with self._changed:
            dropped: Item | None = None
            if self._drops_oldest:
                if len(self._items) == self._capacity and not self._is_closed:
                    dropped = self._items.popleft()
            elif not self._changed.wait_for(
                lambda: len(self._items) < self._capacity or self._is_closed, timeout
            ):
                raise TimeoutError
            if self._is_closed:
                raise QueueClosedError
            self._items.append(item)
            self._changed.notify_all()
            return dropped

    def get(self, timeout: float | None = None) -> Item:
        """Take the oldest item.

        Args:
            timeout: seconds to wait for one; None for ever.

        Raises:
            TimeoutError: if there is none in that time.
            QueueClosedError: if the queue is closed and empty.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._is_closed, timeout):
                raise TimeoutError
            if not self._items:
                raise QueueClosedError
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, discards: bool = False) -> int:
        """Let nothing more in; what waits may still be taken.

        Args:
            discards: whether what waits is thrown away.

        Returns:
            How many items were thrown away.
        """
        with self._changed:
            self._is_closed = True
            discarded = len(self._items) if discards else 0
            if discards:
                self._items.clear()
            self._changed.notify_all()
            return discarded


@dataclass(frozen=True, eq=False)
class StreamResult:
    """What came of a frame.

    Attributes:
        number: of the frame, as `submit` gave it.
        frame: (H, W), uint8.
        tracked: the lesion in it; None while none is marked.
        latency_ms: from `submit` to here.
        encode_ms: of it, for the image encoder.
        decode_ms: of it, for prompts, mask and tracking.
    """

    number: int
    frame: GreyFrame
    tracked: TrackedFrame | None
    latency_ms: float
    encode_ms: float
    decode_ms: float


@dataclass(frozen=True, eq=False)
class _Frame:
    number: int
    image: GreyFrame
    submitted_at: float
    embedding: Embedding | None = None
    encode_ms: float = 0.0


class Stream:
    """Segments live frames in threads of its own.

    Where that gives more frames, one thread encodes the newest frame while another decodes the one
    before. `submit` never waits, and drops the oldest waiting frame if there is no room; or it
    waits (`drops_frames=False`), which slows the source down to what can be done. Results come in
    the order of frames, by iterating.

    Use it in a with statement. Safe to call from several threads.

    Args:
        segmenter: stays open while the stream runs; may be shared.
        capacity: frames that wait for the encoder at most. 1 has the lowest latency.
        drops_frames: False to make `submit` wait instead.
        results: that wait to be taken at most; then the oldest is dropped, or, with
            `drops_frames=False`, the stream waits.
        tracker: when a lesion counts as found; None for the defaults.
        overlaps: whether the next frame is encoded while a mask is decoded. None decides: where a
            GPU computes or cores are left, that gives more frames; where the encoder already has
            all cores, fewer.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        capacity: int = 1,
        drops_frames: bool = True,
        results: int = 8,
        tracker: TrackerOptions | None = None,
        overlaps: bool | None = None,
    ) -> None:
        self._segmenter = segmenter
        self._process = os.getpid()
        self._tracker_options = tracker
        self._counters = StreamCounters()
        self._incoming: BoundedQueue[_Frame] = BoundedQueue(capacity, drops_oldest=drops_frames)
        # One frame between the two threads, so that a mask is never older than it must be.
        self._encoded: BoundedQueue[_Frame] = BoundedQueue(1, drops_oldest=False)
        self._results: BoundedQueue[StreamResult] = BoundedQueue(results, drops_oldest=drops_frames)
        self._lock = threading.Lock()
        self._mark: tuple[Box | None] | None = None
        self._is_tracking = False
        self._latest: _Frame | None = None
        self._error: BaseException | None = None
        if overlaps is None:
            overlaps = _has_room(segmenter)
        works = (self._encode, self._decode) if overlaps else (self._do_all,)
        self._threads = [
            threading.Thread(
                target=self._guarded, args=(work,), name=f"stream{work.__name__}", daemon=True
            )
            for work in works
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, image: npt.NDArray[np.uint8], timeout: float | None = None) -> int:
        """Hand in a frame.

        Args:
            image: (H, W) grey or (H, W, 3) RGB, uint8. Not changed, and not to be changed by the
                caller.
            timeout: seconds to wait for room, with `drops_frames=False`; None for ever.

        Returns:
            Its number, from 0.

        Raises:
            TypeError, ValueError: if the image is none.
            TimeoutError: if there is no room in that time.
            RuntimeError: if the stream is closed.
            Exception: what has ended the stream, for example a BackendError.
        """
        frame = grey_frame(image)
        self._check_process()
        self._raise_error()
        number = self._counters.submitted()
        entry = _Frame(number, frame, time.perf_counter())
        try:
            dropped = self._incoming.put(entry, timeout)
        except TimeoutError:
            self._counters.dropped()
            raise TimeoutError(f"frame {number} found no room in {timeout} seconds.") from None
        except QueueClosedError:
            self._counters.dropped()
            self._raise_error()
            raise RuntimeError("this stream is closed. Open another.") from None
        if dropped is not None:
            self._counters.dropped()
        return number

    def mark(self, box: Box | None) -> None:
        """Follow a lesion from the next frame on, instead of one that is followed.

        Args:
            box: XYXY around it, pixels of the frame; None for what the model proposes. One that is
                not a box in the frame ends the stream's tracking with the state "stopped" and a
                reason.
        """
        with self._lock:
            self._mark, self._is_tracking = (box,), True

    def unmark(self) -> None:
        """Follow nothing; frames are still encoded, so that `predict` answers at once."""
        with self._lock:
            self._mark, self._is_tracking = None, False

    def predict(self, **prompts: npt.ArrayLike) -> tuple[int, Prediction]:
        """Masks for prompts on the newest frame that is encoded; from any thread.

        Args:
            prompts: as `Segmenter.predict` takes them.

        Returns:
            The frame's number, and its masks.

        Raises:
            RuntimeError: before the first frame is encoded.
            TypeError, BadArgumentError, BackendError: as `Segmenter.predict`.
        """
        with self._lock:
            latest = self._latest
        if latest is None or latest.embedding is None:
            self._raise_error()
            raise RuntimeError("no frame is encoded yet. Submit one, and wait for its result.")
        return latest.number, self._segmenter.predict(latest.embedding, **prompts)  # type: ignore[arg-type]  # names of the caller

    def statistics(self) -> StreamStatistics:
        """Counts and latencies up to now."""
        return self._counters.statistics()

    def result(self, timeout: float | None = None) -> StreamResult:
        """The next result.

        Args:
            timeout: seconds to wait for it; None for ever.

        Raises:
            TimeoutError: if there is none in that time.
            StopIteration: if the stream is closed, and all results are taken.
            Exception: what has ended the stream.
        """
        self._check_process()
        try:
            return self._results.get(timeout)
        except QueueClosedError:
            self._raise_error()
            raise StopIteration from None

    def __iter__(self) -> Iterator[StreamResult]:
        """Results until the stream is closed.

        Raises:
            Exception: what has ended the stream.
        """
        while True:
            try:
                yield self.result()
            except StopIteration:
                return

    def close(self, *, drains: bool = False, timeout: float | None = None) -> None:
        """Stop; a frame that is computed is finished. A second call does nothing.

        Results that wait can still be taken.

        Args:
            drains: whether frames that wait are computed as well; else they are dropped.
            timeout: seconds to wait for the threads; None for ever.

        Raises:
            TimeoutError: if they do not end in that time.
        """
        self._counters.dropped(self._incoming.close(discards=not drains))
        if not drains:
            # The decoder may wait for somebody to take results, and nobody may come.
            self._results.close()
        for thread in self._threads:
            thread.join(timeout)
            if thread.is_alive():
                raise TimeoutError(f"the stream has not stopped in {timeout} seconds.")
        self._results.close()

    def __enter__(self) -> "Stream":  # noqa: PYI034  # Self is of Python 3.11
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise BackendError(
                "this stream was opened before the process forked, and its threads stayed in the "
                "parent. Load a Segmenter and open a Stream after the fork."
            )

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread; what ends it ends the stream."""
        try:
            work()
        except BaseException as err:  # noqa: BLE001  # kept for the callers, in other threads
            with self._lock:
                self._error = self._error or err
            self._counters.dropped(self._incoming.close(discards=True))
            self._encoded.close(discards=True)
            self._results.close()

    def _do_all(self) -> None:
        """One thread for both."""
        tracker = LesionTracker(self._segmenter, self._tracker_options)
        try:
            while True:
                self._decode_frame(tracker, self._encode_frame(self._incoming.get()))
        except QueueClosedError:
            self._results.close()

    def _encode(self) -> None:
        try:
            while True:
                encoded = self._encode_frame(self._incoming.get())
                try:
                    self._encoded.put(encoded)
                except QueueClosedError:
                    self._counters.dropped()
                    raise
        except QueueClosedError:
            self._encoded.close()

    def _decode(self) -> None:
        tracker = LesionTracker(self._segmenter, self._tracker_options)
        try:
            while True:
                self._decode_frame(tracker, self._encoded.get())
        except QueueClosedError:
            self._encoded.close(discards=True)
            self._results.close()

    def _encode_frame(self, entry: _Frame) -> _Frame:
        begun = time.perf_counter()
        embedding = self._segmenter.encode(entry.image)
        taken = 1000 * (time.perf_counter() - begun)
        encoded = _Frame(entry.number, entry.image, entry.submitted_at, embedding, taken)
        with self._lock:
            self._latest = encoded
        return encoded

    def _decode_frame(self, tracker: LesionTracker, entry: _Frame) -> None:
        begun = time.perf_counter()
        tracked = self._track(tracker, entry)
        now = time.perf_counter()
        self._counters.done(entry.submitted_at, now)
        result = StreamResult(
            entry.number,
            entry.image,
            tracked,
            1000 * (now - entry.submitted_at),
            entry.encode_ms,
            1000 * (now - begun),
        )
        if self._results.put(result) is not None:
            self._counters.result_dropped()

    def _track(self, tracker: LesionTracker, entry: _Frame) -> TrackedFrame | None:
        with self._lock:
            mark, is_tracking = self._mark, self._is_tracking
            self._mark = None  # for the next frame it is done
        if not is_tracking:
            return None
        if mark is None:
            return tracker.update(entry.image, embedding=entry.embedding)
        try:
            return tracker.start(entry.image, *mark, embedding=entry.embedding)
        except ValueError as err:  # the box; the stream goes on for the next one
            with self._lock:
                self._is_tracking = self._mark is not None
            return TrackedFrame(0, "stopped", None, None, None, 0.0, None, str(err))

    def _raise_error(self) -> None:
        with self._lock:
            error = self._error
        if error is not None:
            raise error


def _has_room(segmenter: Segmenter) -> bool:
    backend = segmenter.backend
    return backend.gpu is not None or backend.threads < default_threads()
