"""Statistics of tensors, on graphs whose values are known."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, helper
from onnxruntime.quantization.calibrate import HistogramCollector

from samus_edge.calibration.activation_statistics import (
    BINS,
    METHODS,
    Feeds,
    RangeMethod,
    TensorStatistics,
    measure_activations,
    read_statistics,
    select_range,
    write_statistics,
)
from samus_edge.errors import DataError, OutputFileError
from tests.small_graphs import model_of

KL_FACTOR = 2
"""Between the cut-offs of the two calibrators, out of a range of 60: the divergence hardly rises
beyond the bulk, and the two merge bins into levels differently."""


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


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "ranges.npz"
    write_statistics(
        path,
        "key",
        {
            "a": TensorStatistics(-0.1, 1 / 3, np.arange(BINS)),
            "b/MatMul": TensorStatistics(0.0, 7.0, np.ones(BINS, np.int64)),
        },
    )
    return path


def test_what_was_written_is_read(cache: Path) -> None:
    found = read_statistics(cache, "key", ["b/MatMul", "a"])
    assert found is not None
    assert list(found) == ["b/MatMul", "a"]
    assert (found["a"].minimum, found["a"].maximum) == (-0.1, 1 / 3)
    np.testing.assert_array_equal(found["a"].counts, np.arange(BINS))
    np.testing.assert_array_equal(found["b/MatMul"].counts, np.ones(BINS))


def test_another_key_a_missing_tensor_and_no_file_are_no_statistics(cache: Path) -> None:
    assert read_statistics(cache, "other", ["a"]) is None
    assert read_statistics(cache, "key", ["a", "c"]) is None
    assert read_statistics(cache.with_name("none.npz"), "key", ["a"]) is None


def test_files_that_are_no_cache_are_named(cache: Path) -> None:
    whole = cache.read_bytes()
    array = cache.with_name("array.npy")
    np.save(array, np.zeros(3))
    other = cache.with_name("other.npz")
    np.savez(other, something=np.zeros(3))
    middle = len(whole) // 2
    changed = whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 20])
    contents = {
        "empty": b"",
        "text": b"no cache\n",
        "cut off": whole[:-30],
        "changed": changed + whole[middle + 20 :],
        "an array": array.read_bytes(),
        "another npz": other.read_bytes(),
    }
    for name, content in contents.items():
        path = cache.with_name(f"{name}.npz")
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.npz is no calibration cache .*Delete it"):
            read_statistics(path, "key", ["a"])


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no calibration cache"):
        read_statistics(tmp_path, "key", ["a"])
    with pytest.raises(OutputFileError, match="cannot be written"):
        write_statistics(tmp_path / "nowhere" / "x.npz", "key", {})


@pytest.fixture
def doubling() -> ModelProto:
    """``y = relu(2 x)``; the product has the name ``double``."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["double"]),
        helper.make_node("Relu", ["double"], ["y"]),
    ]
    return model_of(nodes, {"two": np.array([2], np.float32)}, {"x": 1})


def feeds(*values: float) -> Feeds:
    return {"x": np.array(values, np.float32)}


def test_ranges_span_all_samples_and_inputs_count_as_tensors(doubling: ModelProto) -> None:
    found = measure_activations(doubling, ["y", "x", "double"], [feeds(-3, 1), feeds(2, 0.5)])
    assert list(found) == ["y", "x", "double"]
    assert {name: (each.minimum, each.maximum) for name, each in found.items()} == {
        "x": (-3, 2),
        "double": (-6, 4),
        "y": (0, 4),
    }
    assert found["double"].max_abs == 6
    assert found["y"].max_abs == 4


def test_histograms_are_numpys_over_all_samples(doubling: ModelProto) -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=size).astype(np.float32) for size in (700, 1300, 5)]
    found = measure_activations(doubling, ["double"], [{"x": values} for values in samples])
    # doubling is exact, so nothing moves between bins
    everything = 2 * np.concatenate(samples).astype(np.float64)
    counts, edges = np.histogram(everything, BINS)
    np.testing.assert_array_equal(found["double"].counts, counts)
    np.testing.assert_allclose(found["double"].bin_centres, (edges[1:] + edges[:-1]) / 2)


@pytest.mark.parametrize("value", [0.0, 1.5, -2.0])
def test_a_constant_tensor_is_counted_in_one_bin(value: float, doubling: ModelProto) -> None:
    found = measure_activations(doubling, ["double"], [feeds(value, value), feeds(value)])
    assert found["double"].minimum == found["double"].maximum == 2 * value
    assert found["double"].counts[0] == found["double"].counts.sum() == 3


def test_values_that_are_all_but_equal_are_counted(doubling: ModelProto) -> None:
    values = (1.0, float(np.nextafter(np.float32(1), np.float32(2))))
    found = measure_activations(doubling, ["double"], [feeds(*values)])
    assert found["double"].counts[[0, -1]].tolist() == [1, 1]


def test_a_tensor_without_elements_has_no_range(doubling: ModelProto) -> None:
    found = measure_activations(doubling, ["double"], [feeds()])
    assert (found["double"].minimum, found["double"].maximum) == (0, 0)
    assert found["double"].counts.sum() == 0


def test_without_histograms_every_sample_runs_once(doubling: ModelProto) -> None:
    runs: list[None] = []
    found = measure_activations(
        doubling,
        ["double"],
        [feeds(1), feeds(2)],
        histograms=False,
        on_sample=lambda: runs.append(None),
    )
    assert len(runs) == 2
    assert not found["double"].counts.any()
    assert found["double"].maximum == 4


def test_small_groups_change_nothing(doubling: ModelProto) -> None:
    tensors, samples = ["double", "y"], [feeds(-1, 3, 2), feeds(0.5)]
    together = measure_activations(doubling, tensors, samples)
    runs: list[None] = []
    apart = measure_activations(
        doubling, tensors, samples, group_bytes=12, on_sample=lambda: runs.append(None)
    )
    assert len(runs) == 2 * 2 * 2  # groups, passes, samples
    for name in tensors:
        assert (apart[name].minimum, apart[name].maximum) == (
            together[name].minimum,
            together[name].maximum,
        )
        np.testing.assert_array_equal(apart[name].counts, together[name].counts)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(bad: float, doubling: ModelProto) -> None:
    with pytest.raises(ValueError, match="tensor 'double' holds NaN or infinite"):
        measure_activations(doubling, ["double"], [feeds(1), feeds(2, bad, 3)])


def test_no_samples_are_refused(doubling: ModelProto) -> None:
    samples: list[dict[str, npt.NDArray[np.generic]]] = []
    with pytest.raises(ValueError, match="at least one sample"):
        measure_activations(doubling, ["y"], samples)
