"""Timing several subjects in turns, so that what disturbs the machine meets all of them."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from samus_edge.benchmarking.subject import STAGES, MemoryMeter, Stage, Subject
from samus_edge.errors import BadArgumentError
from samus_edge.runtime.bundle.check_frame import CheckFrame
from samus_edge.runtime.segmenter import Segmenter

_RESAMPLES = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Latency:
    """Times of something that was run many times, milliseconds.

    Attributes:
        runs: number of timed runs.
        p50: the median.
        p90: 90th percentile.
        p99: 99th percentile; with fewer than a hundred runs it is near the longest.
        mean: the mean, which throughput follows from.
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
            milliseconds: time of each run, at least one.
            items: frames or prompts that one run does.

        Raises:
            BadArgumentError: if there is none.
        """
        if not milliseconds:
            raise BadArgumentError("there is nothing to sum up: no run was timed.")
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
        reference: the same of the other, of as many rounds.
        seed: seed of the resampling.

    Raises:
        BadArgumentError: if the numbers of rounds differ, or there is none.
    """
    if len(rounds) != len(reference) or not rounds:
        raise BadArgumentError(
            f"both need the same number of rounds, at least 1; got {len(rounds)} and "
            f"{len(reference)}."
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


_SETTLE_SECONDS = 0.002
_MILLISECONDS = 1e3


@dataclass
class Timed:
    """One stage of one subject, and how long its runs took.

    Attributes:
        subject: the subject.
        stage: what was run.
        rounds: milliseconds of each run of each round, from host to host.
        device_rounds: the same by the device's clock; empty where it has none.
    """

    subject: Subject
    stage: Stage
    rounds: list[list[float]] = field(default_factory=list)
    device_rounds: list[list[float]] = field(default_factory=list)

    @property
    def milliseconds(self) -> list[float]:
        """Time of each run."""
        return [value for each in self.rounds for value in each]

    @property
    def device_milliseconds(self) -> list[float]:
        """Time of each run, by the device's clock."""
        return [value for each in self.device_rounds for value in each]


def time_turn(
    work: Callable[[], object], runs: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Time one turn; milliseconds of each run.

    A turn begins with a short pause, in which threads of whatever ran before stop spinning, and a
    run that does not count.
    """
    time.sleep(_SETTLE_SECONDS)
    work()
    taken = []
    for _ in range(runs):
        begun = clock()
        work()
        taken.append((clock() - begun) * _MILLISECONDS)
    return taken


def time_in_turns(
    subjects: Sequence[Subject],
    *,
    rounds: int,
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
    on_turn: Callable[[], None] = lambda: None,
) -> list[Timed]:
    """Time every stage of every subject.

    In a round, subjects take turns at one stage, then at the next; see `time_turn`.

    Args:
        subjects: opened and warm.
        rounds: number of rounds.
        runs: timed runs in a turn.
        clock: seconds.
        on_turn: called after each turn.

    Returns:
        In the order of stages, number of items, and subjects.
    """
    timed = [Timed(subject, stage) for subject in subjects for stage in subject.stages]
    timed.sort(key=lambda each: (STAGES.index(each.stage.name), each.stage.items))  # is stable
    for _ in range(rounds):
        for each in timed:
            each.rounds.append(time_turn(each.stage.run, runs, clock))
            if each.stage.device_milliseconds is not None:
                each.device_rounds.append(each.stage.device_milliseconds(runs))
            on_turn()
    return timed


_WARM_UP_PASSES = 2


@dataclass(frozen=True)
class SoakResult:
    """What came of many frames in a row.

    Attributes:
        frames: number of frames that were segmented.
        differing: frames whose mask was not, bit by bit, that of the same frame before.
        latency: time of one frame with one box, from host to host.
        memory_growth_bytes: growth of this process from the warm-up's end to the last frame; None
            if not known.
        gpu_memory_growth_bytes: the same of the GPU's memory; None if there is no GPU.
    """

    frames: int
    differing: int
    latency: Latency
    memory_growth_bytes: int | None
    gpu_memory_growth_bytes: int | None


def soak(
    segmenter: Segmenter,
    frames: Sequence[CheckFrame],
    count: int,
    *,
    on_frame: Callable[[], None] = lambda: None,
) -> SoakResult:
    """Segment frames over and over.

    Args:
        segmenter: the segmenter to run.
        frames: frames to take in turns, each with its box.
        count: number of frames to segment, after each was segmented twice.
        on_frame: called after each.

    Raises:
        BackendError: if the backend fails.
    """

    def segment(frame: CheckFrame) -> str:
        masks = segmenter.segment(frame.image, boxes=frame.box[None]).masks
        return hashlib.sha256(masks.tobytes()).hexdigest()

    for _ in range(_WARM_UP_PASSES):
        expected = [segment(frame) for frame in frames]
    meter = MemoryMeter(segmenter.backend.gpu)
    milliseconds: list[float] = []
    differing = 0
    for index in range(count):
        begun = time.perf_counter()
        found = segment(frames[index % len(frames)])
        milliseconds.append((time.perf_counter() - begun) * 1e3)
        differing += found != expected[index % len(frames)]
        on_frame()
    return SoakResult(count, differing, Latency.of(milliseconds), *meter.growth())
