"""Taking turns."""

from collections.abc import Callable
from itertools import count
from typing import Any

from samus_edge.benchmarking.bench_results import rows_of
from samus_edge.benchmarking.turns import time_in_turns

Fake = Callable[..., Any]


def test_subjects_alternate_within_a_round_and_the_first_run_does_not_count(fake: Fake) -> None:
    ran: list[str] = []
    subjects = [fake("a", ran), fake("b", ran, (("image_encoder", 1),))]
    turns: list[None] = []
    ticks = count()
    timed = time_in_turns(
        subjects,
        rounds=2,
        runs=2,
        clock=lambda: float(next(ticks)),
        on_turn=lambda: turns.append(None),
    )
    once = [*["a image_encoder 1"] * 3, *["b image_encoder 1"] * 3, *["a end_to_end 1"] * 3]
    assert ran == once * 2
    assert len(turns) == 6
    assert [each.rounds for each in timed] == [[[1000.0] * 2] * 2] * 3
    assert timed[0].milliseconds == [1000.0] * 4


def test_stages_are_sorted_and_rows_have_ratios_to_the_first(fake: Fake) -> None:
    ran: list[str] = []
    stages = (("end_to_end", 1), ("image_encoder", 4), ("image_encoder", 1))
    times = iter(
        [0, 1, 0, 2, 0, 8, 0, 1, 0, 3]
    )  # seconds: two runs of 1, two of 4 frames, one whole
    subjects = [fake("a", ran, stages), fake("b", ran, stages[1:])]
    rows = rows_of(time_in_turns(subjects, rounds=1, runs=1, clock=lambda: float(next(times))))
    assert [(row.stage, row.items, row.subject) for row in rows] == [
        ("image_encoder", 1, "a"),
        ("image_encoder", 1, "b"),
        ("image_encoder", 4, "a"),
        ("image_encoder", 4, "b"),
        ("end_to_end", 1, "a"),
    ]
    ratios = [None if row.ratio is None else row.ratio.value for row in rows]
    assert ratios == [None, 2.0, None, 0.125, None]
    assert rows[2].latency.per_second == 0.5


def test_a_device_clock_is_kept_apart(fake: Fake) -> None:
    ran: list[str] = []
    device = fake("gpu", ran, device_times=lambda runs: [0.5] * runs)
    other = fake("cpu", ran)
    rows = rows_of(time_in_turns([other, device], rounds=2, runs=3))
    by_subject = {row.subject: row for row in rows if row.stage == "image_encoder"}
    assert by_subject["cpu"].device is None
    found = by_subject["gpu"].device
    assert found is not None
    assert (found.p50, found.runs) == (0.5, 6)
    assert by_subject["gpu"].device_ratio is None  # the first that has one
