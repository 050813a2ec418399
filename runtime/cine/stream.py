"""Live frames in, lesions out: the newest frame first, encoding and decoding at the same time."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.cine.bounded_queue import BoundedQueue, QueueClosedError
from samus_edge.runtime.cine.box_geometry import Box
from samus_edge.runtime.cine.lesion_tracker import LesionTracker, TrackedFrame, TrackerOptions
from samus_edge.runtime.cine.stream_statistics import StreamCounters, StreamStatistics
from samus_edge.runtime.grey_frame import GreyFrame, grey_frame
from samus_edge.runtime.onnxruntime_backend import default_threads
from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["Stream", "StreamResult"]


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

    Where that gives more frames, one encodes the newest frame while another decodes the one before. `submit` never waits, and drops the
    oldest waiting frame if there is no room; or it waits (`drops_frames=False`), which slows the source down to what
    can be done. Results come in the order of frames, by iterating.

    Use it in a with statement. Safe to call from several threads.

    Args:
        segmenter: stays open while the stream runs; may be shared.
        capacity: frames that wait for the encoder at most. 1 has the lowest latency.
        drops_frames: False to make `submit` wait instead.
        results: that wait to be taken at most; then the oldest is dropped, or, with `drops_frames=False`, the stream waits.
        tracker: when a lesion counts as found; None for the defaults.
        overlaps: whether the next frame is encoded while a mask is decoded. None decides: where a GPU computes or cores
            are left, that gives more frames; where the encoder already has all cores, fewer.
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
        self._tracker_options = tracker
        self._counters = StreamCounters()
        self._incoming: BoundedQueue[_Frame] = BoundedQueue(capacity, drops_oldest=drops_frames)
        # One frame between the two threads, so that a mask is never older than it must be.
        self._encoded: BoundedQueue[_Frame] = BoundedQueue(1, drops_oldest=False)
        self._results: BoundedQueue[StreamResult] = BoundedQueue(results, drops_oldest=drops_frames)
        self._lock = threading.Lock()
        self._mark: Box | None = None
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
            image: (H, W) grey or (H, W, 3) RGB, uint8. Not changed, and not to be changed by the caller.
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

    def mark(self, box: Box) -> None:
        """Follow a lesion from the next frame on, instead of one that is followed.

        Args:
            box: XYXY around it, pixels of the frame. One that is not a box in the frame ends the stream's tracking
                with the state "stopped" and a reason.
        """
        with self._lock:
            self._mark, self._is_tracking = box, True

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
            TypeError, ValueError, BackendError: as `Segmenter.predict`.
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
            return tracker.start(entry.image, mark, embedding=entry.embedding)
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
