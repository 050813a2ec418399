"""Timing several subjects in turns, so that what disturbs the machine meets all of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from samus_edge.benchmarking.subject import STAGES, Stage, Subject

__all__ = ["Timed", "time_in_turns"]

_SETTLE_SECONDS = 0.002
_MILLISECONDS = 1e3


@dataclass
class Timed:
    """One stage of one subject, and how long its runs took.

    Attributes:
        subject: whose it is.
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
        """Of each run."""
        return [value for each in self.rounds for value in each]

    @property
    def device_milliseconds(self) -> list[float]:
        """Of each run, by the device's clock."""
        return [value for each in self.device_rounds for value in each]


def time_in_turns(
    subjects: Sequence[Subject],
    *,
    rounds: int,
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
    on_turn: Callable[[], None] = lambda: None,
) -> list[Timed]:
    """Time every stage of every subject.

    In a round, subjects take turns at one stage, then at the next. A turn begins with a short pause, in which
    threads of the subject before stop spinning, and a run that does not count.

    Args:
        subjects: to be timed; opened, and warm.
        rounds: of turns.
        runs: that are timed in a turn.
        clock: seconds.
        on_turn: called after each turn.

    Returns:
        In the order of stages, number of items, and subjects.
    """
    timed = [Timed(subject, stage) for subject in subjects for stage in subject.stages]
    timed.sort(key=lambda each: (STAGES.index(each.stage.name), each.stage.items))  # is stable
    for _ in range(rounds):
        for each in timed:
            time.sleep(_SETTLE_SECONDS)
            each.stage.run()
            taken = []
            for _ in range(runs):
                begun = clock()
                each.stage.run()
                taken.append((clock() - begun) * _MILLISECONDS)
            each.rounds.append(taken)
            if each.stage.device_milliseconds is not None:
                each.device_rounds.append(each.stage.device_milliseconds(runs))
            on_turn()
    return timed
