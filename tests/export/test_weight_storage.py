"""Rounding of weights: how far values move, and that storage recognises the result."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from samus_edge.export.weight_storage import (
    expand_weights,
    round_to_int8_grid,
    round_weights,
    store_compactly,
)
from tests.small_graphs import Array as FloatArray
from tests.small_graphs import model_of, run

HALF_SUBNORMAL = 2.0**-25
"""Half of the distance between the smallest half-precision numbers."""


def make_matmul(matrices: dict[str, FloatArray]) -> ModelProto:
    """A model that multiplies its input by one matrix after the other."""
    *inner, _ = (f"times_{name}" for name in matrices)
    tensors = ["x", *inner, "y"]
    return model_of(
        [
            helper.make_node("MatMul", [earlier, name], [later])
            for name, (earlier, later) in zip(matrices, pairwise(tensors), strict=True)
        ],
        matrices,
    )


class Layers(nn.Module):
    """Matrices, a kernel and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Linear(32, 16)
        self.other = nn.Linear(32, 16)
        self.small = nn.Linear(5, 4)
        self.conv = nn.Conv2d(4, 8, 3)
        self.register_buffer("table", torch.randn(64, 64))


@pytest.fixture
def layers() -> Layers:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Layers()


def test_matrices_go_to_half_precision_or_to_the_grid_and_the_rest_stays(layers: Layers) -> None:
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    round_weights(layers, int8=["other.weight"])
    after = layers.state_dict()
    for name in ("large.weight", "conv.weight"):
        halves = before[name].numpy().astype(np.float16)
        np.testing.assert_array_equal(after[name].numpy(), halves.astype(np.float32))
        assert not torch.equal(after[name], before[name])
    steps = after["other.weight"] / after["other.weight"].abs().amax(dim=1, keepdim=True) * 127
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    kept = set(before) - {"large.weight", "conv.weight", "other.weight"}
    assert all(torch.equal(after[name], before[name]) for name in kept)


def test_rounding_again_changes_nothing(layers: Layers) -> None:
    round_weights(layers, int8=["other.weight"])
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    round_weights(layers, int8=["other.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())


def test_names_that_are_no_matrices_are_all_named_before_anything_changes(layers: Layers) -> None:
    before = layers.large.weight.clone()
    with pytest.raises(ValueError, match=r"got conv\.weight, large\.bias, nowhere\.weight\."):
        round_weights(layers, int8=["nowhere.weight", "large.bias", "large.weight", "conv.weight"])
    assert torch.equal(layers.large.weight, before)


@given(
    rows=st.lists(
        st.lists(st.floats(-1.0, 1.0, width=32), min_size=1, max_size=6), min_size=1, max_size=4
    ).filter(lambda rows: len({len(row) for row in rows}) == 1),
    exponent=st.integers(-30, 10),
)
@example(rows=[[0.0, 0.0]], exponent=0)
@example(rows=[[1.0, 0.503]], exponent=-11)  # a scale of few bits, whose largest step is not 127
@example(rows=[[1.0, -1.0]], exponent=-18)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_values_move_by_half_a_step_and_the_grid_can_be_read_back(
    rows: list[list[float]], exponent: int
) -> None:
    matrix = np.array(rows, np.float32) * np.float32(2.0**exponent)
    rounded = round_to_int8_grid(torch.from_numpy(matrix)).numpy()
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    step = (largest / np.float32(127)).astype(np.float16).astype(np.float32)
    # half a step, and what rounding the step to half precision moves the largest of 127 steps by
    bound = 0.5 * step + np.maximum(step * 2.0**-11, HALF_SUBNORMAL) * 128
    assert (np.abs(rounded - matrix) <= bound).all()
    # the scale that a reader finds is the one that was used
    found = np.abs(rounded).max(axis=1, keepdims=True) / np.float32(127)
    scale = found.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(scale, step)
    steps = np.rint(rounded / np.where(scale > 0, scale, 1))
    assert np.abs(steps).max() <= 127
    np.testing.assert_array_equal(steps * scale, rounded)


def test_rounding_is_symmetric() -> None:
    matrix = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_to_int8_grid(-matrix), -round_to_int8_grid(matrix))


def int8_grid(shape: tuple[int, int], axis: int) -> FloatArray:
    """A matrix of int8 steps times a half-precision scale per row (axis 0) or column (axis 1)."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-127, 128, shape).astype(np.float32)
    edge: list[object] = [slice(None), slice(None)]
    edge[1 - axis] = 0
    steps[tuple(edge)] = 127  # type: ignore[index]  # a tuple of slices and one integer
    count = shape[axis]
    scale = rng.uniform(0.001, 0.01, (count, 1) if axis == 0 else (1, count))
    return np.asarray(steps * scale.astype(np.float16).astype(np.float32), dtype=np.float32)


def halves(shape: tuple[int, ...]) -> FloatArray:
    """Numbers that half precision holds exactly, on no int8 grid."""
    values = np.random.default_rng(1).normal(size=shape).astype(np.float16)
    return values.astype(np.float32)


def fulls(shape: tuple[int, ...]) -> FloatArray:
    """Numbers that need all of float32."""
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def initializers(model: ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def test_outputs_stay_to_the_bit_the_file_shrinks_and_expanding_undoes_it() -> None:
    matrices = {
        "rows": int8_grid((48, 40), axis=0),
        "columns": int8_grid((40, 56), axis=1),
        "half": halves((56, 32)),
        "full": fulls((32, 64)),
    }
    model, before = make_matmul(matrices), make_matmul(matrices)
    x = fulls((5, 48))
    expected = run(model, x=x)
    store_compactly(model)
    np.testing.assert_array_equal(run(model, x=x), expected)
    saved = 3 * (48 * 40 + 40 * 56) + 2 * 56 * 32
    assert model.ByteSize() <= before.ByteSize() - saved + 2000  # scales, names and nodes
    assert len(model.graph.node) > len(before.graph.node)
    expand_weights(model)
    assert model.graph.node == before.graph.node
    found = initializers(model)
    assert found.keys() == matrices.keys()
    for name, matrix in matrices.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], matrix)


@pytest.mark.parametrize("axis", [0, 1])
def test_an_int8_grid_is_found_along_either_axis(axis: int) -> None:
    matrix = int8_grid((48, 40), axis)
    model = make_matmul({"w": matrix})
    store_compactly(model)
    stored = initializers(model)
    assert stored.keys() == {"w.int8", "w.scale_fp16"}
    assert stored["w.int8"].dtype == np.int8
    assert stored["w.scale_fp16"].dtype == np.float16
    assert stored["w.scale_fp16"].shape == ((48, 1) if axis == 0 else (1, 40))
    restored = stored["w.int8"].astype(np.float32) * stored["w.scale_fp16"].astype(np.float32)
    np.testing.assert_array_equal(restored, matrix)


def test_halves_are_stored_as_halves() -> None:
    model = make_matmul({"w": halves((48, 40))})
    store_compactly(model)
    stored = initializers(model)
    assert stored.keys() == {"w.fp16"}
    assert stored["w.fp16"].dtype == np.float16


@pytest.mark.parametrize(
    "matrix",
    [
        fulls((48, 40)),
        halves((20, 20)),  # too small to gain anything
        np.full((48, 40), -3.4e38, np.float32),  # as in attention masks: overflows half precision
        np.full((48, 40), 1e5, np.float32) + np.arange(40, dtype=np.float32),
        halves((48, 40)) * np.float32(1.0001),
    ],
    ids=["full", "small", "lowest", "large", "nearly half"],
)
def test_what_does_not_fit_stays_float32(matrix: FloatArray) -> None:
    model = make_matmul({"w": matrix})
    before = model.SerializeToString(deterministic=True)
    store_compactly(model)
    assert model.SerializeToString(deterministic=True) == before


def test_rows_of_zeros_are_on_any_grid() -> None:
    matrix = int8_grid((48, 40), axis=0)
    matrix[3] = 0
    model = make_matmul({"w": matrix})
    x = fulls((4, 48))
    expected = run(model, x=x)
    store_compactly(model)
    assert "w.int8" in initializers(model)
    np.testing.assert_array_equal(run(model, x=x), expected)


def test_integers_are_left_alone() -> None:
    model = make_matmul({"w": halves((48, 40))})
    model.graph.initializer.append(numpy_helper.from_array(np.arange(2000), "indices"))
    store_compactly(model)
    assert initializers(model)["indices"].dtype == np.int64


def test_expanding_what_is_expanded_changes_nothing() -> None:
    model = make_matmul({"w": halves((48, 40))})
    before = model.SerializeToString(deterministic=True)
    expand_weights(model)
    assert model.SerializeToString(deterministic=True) == before


def test_only_constant_casts_and_float_products_are_expanded() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["two", "three"], ["six"], name="integers"),
            helper.make_node("Cast", ["six"], ["six_f"], name="computed", to=TensorProto.FLOAT),
            helper.make_node("Cast", ["half"], ["scalar"], name="stored", to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "scalar"], ["scaled"], name="data"),
            helper.make_node("Add", ["scaled", "six_f"], ["y"], name="sum"),
        ],
        "constants",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
        [
            numpy_helper.from_array(np.array([2]), "two"),
            numpy_helper.from_array(np.array([3]), "three"),
            numpy_helper.from_array(np.array(0.5, np.float16), "half"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    expand_weights(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.node] == ["integers", "computed", "data", "sum"]
    x = np.array([1, -2], np.float32)
    np.testing.assert_array_equal(run(model, x=x), x / 2 + 6)
