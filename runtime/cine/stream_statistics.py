"""What a stream has done so far."""

import threading
from collections import deque
from dataclasses import asdict, dataclass

import numpy as np

__all__ = ["StreamCounters", "StreamStatistics"]

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
