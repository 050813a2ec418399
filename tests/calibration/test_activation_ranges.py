"""Ranges of tensors, on a graph whose values are known."""

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, helper

from samus_edge.calibration.activation_ranges import Feeds, measure_ranges
from tests.small_graphs import model_of


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


def test_ranges_span_all_samples_and_zero(doubling: ModelProto) -> None:
    """Inputs count as tensors."""
    found = measure_ranges(doubling, ["y", "x", "double"], [feeds(-3, 1), feeds(2, 0.5)])
    assert list(found) == ["y", "x", "double"]
    assert found == {"x": (-3, 2), "double": (-6, 4), "y": (0, 4)}
    for values, expected in (((-2, 3), (-4, 6)), ((1, 3), (0, 6)), ((-3, -1), (-6, 0))):
        assert measure_ranges(doubling, ["double"], [feeds(*values)]) == {"double": expected}


def test_a_tensor_without_elements_has_no_range(doubling: ModelProto) -> None:
    found = measure_ranges(doubling, ["double"], [feeds()])
    assert found == {"double": (0, 0)}


def test_small_groups_change_nothing(doubling: ModelProto) -> None:
    tensors, samples = ["double", "y"], [feeds(-1, 3, 2), feeds(0.5)]
    together = measure_ranges(doubling, tensors, samples)
    assert measure_ranges(doubling, tensors, samples, group_bytes=12) == together


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(bad: float, doubling: ModelProto) -> None:
    with pytest.raises(ValueError, match="tensor 'double' holds NaN or infinite"):
        measure_ranges(doubling, ["double"], [feeds(1), feeds(2, bad, 3)])


def test_no_samples_are_refused(doubling: ModelProto) -> None:
    samples: list[dict[str, npt.NDArray[np.generic]]] = []
    with pytest.raises(ValueError, match="at least one sample"):
        measure_ranges(doubling, ["y"], samples)
