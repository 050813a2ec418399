"""Times side by side."""

import pytest

from samus_edge.evaluation.precision_latency import PrecisionTimes, latency_figures, timed_ms


def test_ratios_are_those_of_each_frame() -> None:
    # The second frame is large; its times must not outweigh the others'.
    reference = PrecisionTimes([10, 100, 10], [[5, 5], [5, 5], [10, 10]])
    own = PrecisionTimes([5, 150, 6], [[5, 5], [5, 10], [4, 4]])
    figures = latency_figures(own, reference)
    assert (figures.encoder_ms, figures.decoder_ms) == (6, 5)
    assert figures.encoder_ratio == pytest.approx(0.6)  # of 0.5, 1.5, 0.6
    assert figures.decoder_ratio == pytest.approx(1.0)  # of 1, 1, 1, 2, 0.4, 0.4
    assert figures.ratio == pytest.approx(10 / 15)  # of 10 / 15, 157.5 / 105, 10 / 20
    assert figures.is_faster is True


@pytest.mark.parametrize(("ms", "is_faster"), [(9.4, True), (9.6, False), (12.0, False)])
def test_a_few_percent_are_not_faster(ms: float, is_faster: bool) -> None:
    reference, own = PrecisionTimes([8], [[2]]), PrecisionTimes([ms - 2], [[2]])
    assert latency_figures(own, reference).is_faster is is_faster


def test_the_reference_is_compared_with_nothing() -> None:
    figures = latency_figures(PrecisionTimes([8], [[2]]), None)
    assert (figures.encoder_ms, figures.ratio, figures.is_faster) == (8, None, None)


def test_what_is_not_judged_says_why() -> None:
    times = PrecisionTimes([8], [[2]])
    figures = latency_figures(times, times, not_judged="another machine")
    assert (figures.ratio, figures.is_faster, figures.note) == (1.0, None, "another machine")


def test_a_result_comes_with_its_time() -> None:
    result, ms = timed_ms(lambda: sum(range(1000)))
    assert result == 499_500
    assert ms > 0
