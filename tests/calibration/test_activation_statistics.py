"""Statistics of tensors, on graphs whose values are known."""

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from samus_edge.calibration.activation_statistics import BINS, Feeds, measure_activations


@pytest.fixture
def doubling() -> ModelProto:
    """``y = relu(2 x)``; the product has the name ``double``."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "two"], ["double"]),
            helper.make_node("Relu", ["double"], ["y"]),
        ],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(np.array([2], np.float32), "two")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


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


def test_inputs_alone_can_be_measured(doubling: ModelProto) -> None:
    found = measure_activations(doubling, ["x"], [feeds(1, 5)])
    assert (found["x"].minimum, found["x"].maximum) == (1, 5)


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
