"""What many timed runs come to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Latency", "Ratio", "ratio_of_medians"]

_RESAMPLES = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Latency:
    """Of one thing that was run many times; milliseconds.

    Attributes:
        runs: that were timed.
        p50: median.
        p90: of ten runs one takes longer.
        p99: of a hundred runs one takes longer; with fewer runs it is near the longest.
        mean: what throughput follows from.
        per_second: frames or prompts per second, if one run follows the other.
    """

    runs: int
    p50: float
    p90: float
    p99: float
    mean: float
    per_second: float

    @staticmethod
    def of(milliseconds: Sequence[float], items: int = 1) -> "Latency":
        """Sum up.

        Args:
            milliseconds: of each run, at least one.
            items: frames or prompts that one run does.

        Raises:
            ValueError: if there is none.
        """
        if not milliseconds:
            raise ValueError("there is nothing to sum up: no run was timed.")
        p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, (50, 90, 99)))
        mean = float(np.mean(milliseconds))
        return Latency(len(milliseconds), p50, p90, p99, mean, 1000 * items / mean)


@dataclass(frozen=True)
class Ratio:
    """How many times as long something takes.

    Attributes:
        value: its median over the other's.
        low: lower end of the 95 % interval, by resampling rounds of measuring.
        high: upper end.
    """

    value: float
    low: float
    high: float


def ratio_of_medians(
    rounds: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], seed: int = 0
) -> Ratio:
    """Compare two things that were timed in turns.

    Rounds are resampled, the same of both: runs of a round share what disturbed the machine then.

    Args:
        rounds: milliseconds of each run, of each round.
        reference: of as many rounds.
        seed: of the resampling.

    Raises:
        ValueError: if the numbers of rounds differ, or there is none.
    """
    if len(rounds) != len(reference) or not rounds:
        raise ValueError(
            f"both need the same number of rounds, at least 1; got {len(rounds)} and {len(reference)}."
        )
    generator = np.random.default_rng(seed)

    def ratio(chosen: Sequence[int]) -> float:
        own = np.concatenate([np.asarray(rounds[index]) for index in chosen])
        other = np.concatenate([np.asarray(reference[index]) for index in chosen])
        return float(np.median(own) / np.median(other))

    count = len(rounds)
    resampled = [ratio(generator.integers(0, count, count).tolist()) for _ in range(_RESAMPLES)]
    low, high = np.quantile(resampled, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return Ratio(ratio(range(count)), float(low), float(high))
