"""Taking turns."""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from samus_edge.benchmarking.bench_results import rows_of
from samus_edge.benchmarking.turns import Latency, ratio_of_medians, soak, time_in_turns
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.check_frame import load_check_frames


def test_by_hand() -> None:
    latency = Latency.of([1.0, 2.0, 3.0, 4.0, 10.0], items=2)
    assert latency.runs == 5
    assert latency.p50 == 3.0
    assert latency.p90 == pytest.approx(7.6)  # 4 + 0.6 * 6
    assert latency.p99 == pytest.approx(9.76)
    assert latency.mean == 4.0
    assert latency.per_second == 500.0  # two of each run of 4 ms


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no run was timed"):
        Latency.of([])
    with pytest.raises(ValueError, match="got 1 and 2"):
        ratio_of_medians([[1.0]], [[1.0], [2.0]])


def test_a_ratio_has_an_interval_that_covers_the_truth() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(40):
        drift = generator.uniform(1, 1.3, 12)  # of the machine, the same for both
        own = [(d * generator.normal(20, 0.5, 6)).tolist() for d in drift]
        other = [(d * generator.normal(10, 0.25, 6)).tolist() for d in drift]
        ratio = ratio_of_medians(own, other, seed)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 2.0 <= ratio.high
    assert covered >= 34


def test_a_constant_ratio_has_no_width() -> None:
    ratio = ratio_of_medians([[4.0, 4.0]] * 3, [[2.0, 2.0]] * 3)
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


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


def test_masks_stay_the_same_and_memory_is_given_back() -> None:
    frames = load_check_frames((96, 128))[:3]
    done: list[None] = []
    with Segmenter.load(threads=1) as segmenter:
        result = soak(segmenter, frames, 40, on_frame=lambda: done.append(None))
    assert (result.frames, result.differing, len(done)) == (40, 0, 40)
    assert result.latency.runs == 40
    assert result.gpu_memory_growth_bytes is None
    assert result.memory_growth_bytes is not None
    assert result.memory_growth_bytes < 20_000_000


def test_a_mask_that_changes_is_counted() -> None:
    frames = load_check_frames((96, 128))[:1]
    with Segmenter.load(threads=1) as segmenter:
        segment, calls = segmenter.segment, iter(range(100))

        def sometimes_wrong(image, **prompts):  # type: ignore[no-untyped-def]
            prediction = segment(image, **prompts)
            if next(calls) == 4:  # two passes of warm-up, then the third that counts
                prediction.masks[0, 0, 0, 0] ^= True
            return prediction

        segmenter.segment = sometimes_wrong  # type: ignore[method-assign]
        assert soak(segmenter, frames, 5).differing == 1
