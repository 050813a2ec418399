"""Ranges, against numpy's percentiles and ONNX Runtime's entropy calibrator."""

import numpy as np
import numpy.typing as npt
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from samus_edge.calibration.activation_statistics import BINS, TensorStatistics
from samus_edge.calibration.range_selection import METHODS, RangeMethod, select_range

KL_FACTOR = 2
"""Between the cut-offs of the two calibrators, out of a range of 60: the divergence hardly rises beyond
the bulk, and the two merge bins into levels differently."""


def statistics(values: npt.NDArray[np.float64]) -> TensorStatistics:
    low, high = float(values.min()), float(values.max())
    if low == high:
        counts = np.zeros(BINS, np.int64)
        counts[0] = values.size
    else:
        counts = np.histogram(values, BINS, (low, high))[0]
    return TensorStatistics(low, high, counts)


@pytest.fixture
def normal() -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).normal(0.3, 1, 200_000)


@pytest.fixture
def heavy_tailed() -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(1)
    return np.concatenate((rng.normal(0, 1, 200_000), rng.uniform(-60, 60, 20)))


def test_minmax_covers_everything_and_zero() -> None:
    for values, expected in (([-2, 3], (-2, 3)), ([1, 3], (0, 3)), ([-3, -1], (-3, 0))):
        found = select_range(statistics(np.array(values, np.float64)), RangeMethod("minmax"))
        assert found == expected


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
def test_percentiles_are_numpys_at_either_end(
    percentile: float, normal: npt.NDArray[np.float64]
) -> None:
    found = select_range(statistics(normal), RangeMethod("percentile", percentile))
    expected = np.percentile(normal, [100 - percentile, percentile])
    bin_width = np.ptp(normal) / BINS
    np.testing.assert_allclose(found, expected, rtol=0, atol=bin_width)
    outside = np.mean(normal < found[0]), np.mean(normal > found[1])
    assert max(outside) <= (100 - percentile) / 100


def test_percentile_100_is_minmax(normal: npt.NDArray[np.float64]) -> None:
    found = select_range(statistics(normal), RangeMethod("percentile", 100))
    np.testing.assert_allclose(found, (normal.min(), normal.max()))


def test_entropy_cuts_a_heavy_tail(heavy_tailed: npt.NDArray[np.float64]) -> None:
    low, high = select_range(statistics(heavy_tailed), RangeMethod("entropy"))
    assert 3 < high < 15
    assert 3 < -low < 15


def test_entropy_keeps_all_of_a_uniform_sample() -> None:
    values = np.random.default_rng(2).uniform(-2, 5, 500_000)
    low, high = select_range(statistics(values), RangeMethod("entropy"))
    assert low == values.min()
    np.testing.assert_allclose(high, 5, rtol=0.02)  # one or two of the cut-offs that are tried


def test_entropy_agrees_with_onnxruntime(heavy_tailed: npt.NDArray[np.float64]) -> None:
    collector = HistogramCollector(
        method="entropy",
        symmetric=True,
        num_bins=BINS,
        num_quantized_bins=128,
        percentile=99.99,
        scenario="same",
    )
    collector.collect({"x": [heavy_tailed.astype(np.float32)]})
    reference = float(collector.compute_collection_result()["x"][1])
    _, high = select_range(statistics(heavy_tailed), RangeMethod("entropy"))
    assert reference / KL_FACTOR <= high <= reference * KL_FACTOR


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_constant_tensors_have_their_value_and_zero(value: float, name: str) -> None:
    found = select_range(statistics(np.full(10, value)), RangeMethod(name))
    np.testing.assert_allclose(found, (min(value, 0), max(value, 0)))


def test_bad_methods_are_named() -> None:
    with pytest.raises(ValueError, match="minmax, entropy, percentile, got 'kl'"):
        RangeMethod("kl")
    for percentile in (50.0, 100.1, float("nan")):
        with pytest.raises(ValueError, match=f"got {percentile}"):
            RangeMethod("percentile", percentile)


def test_entropy_does_not_depend_on_how_lopsided_the_range_is() -> None:
    # the same bulk, with the one far value on either side or on both
    bulk = np.random.default_rng(3).normal(0, 1, 200_000)
    found = []
    for far in ([40.0], [-40.0], [-40.0, 40.0], [-39.0, 40.0]):
        ranges = select_range(statistics(np.append(bulk, far)), RangeMethod("entropy"))
        found.append(max(ranges))
    assert max(found) / min(found) < 2
    assert min(found) > 2.5
