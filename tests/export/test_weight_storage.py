"""Rounding of weights: how far values move, and that storage recognises the result."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from samus_edge.export.weight_storage import expand_weights, round_weights, store_compactly
from tests.small_graphs import Array as FloatArray
from tests.small_graphs import model_of, run


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
        self.small = nn.Linear(5, 4)
        self.conv = nn.Conv2d(4, 8, 3)
        self.register_buffer("table", torch.randn(64, 64))


@pytest.fixture
def layers() -> Layers:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Layers()


def test_large_matrices_and_kernels_go_to_half_precision_and_the_rest_stays(
    layers: Layers,
) -> None:
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    round_weights(layers)
    after = layers.state_dict()
    for name, tensor in before.items():
        if name in ("large.weight", "conv.weight"):
            halves = tensor.numpy().astype(np.float16)
            np.testing.assert_array_equal(after[name].numpy(), halves.astype(np.float32))
            assert not torch.equal(after[name], tensor)
        else:
            assert torch.equal(after[name], tensor)


def halves(shape: tuple[int, ...]) -> FloatArray:
    """Numbers that half precision holds exactly."""
    values = np.random.default_rng(1).normal(size=shape).astype(np.float16)
    return values.astype(np.float32)


def fulls(shape: tuple[int, ...]) -> FloatArray:
    """Numbers that need all of float32."""
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def initializers(model: ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def test_outputs_stay_to_the_bit_the_file_shrinks_and_expanding_undoes_it() -> None:
    matrices = {"half": halves((48, 40)), "other half": halves((40, 56)), "full": fulls((56, 64))}
    model, before = make_matmul(matrices), make_matmul(matrices)
    x = fulls((5, 48))
    expected = run(model, x=x)
    store_compactly(model)
    np.testing.assert_array_equal(run(model, x=x), expected)
    saved = 2 * (48 * 40 + 40 * 56)
    assert model.ByteSize() <= before.ByteSize() - saved + 1000  # names and nodes
    assert len(model.graph.node) > len(before.graph.node)
    expand_weights(model)
    assert model.graph.node == before.graph.node
    found = initializers(model)
    assert found.keys() == matrices.keys()
    for name, matrix in matrices.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], matrix)


def test_steps_of_earlier_versions_are_expanded() -> None:
    """Bundles of 0.1 have int8 steps times a scale of half precision."""
    steps = np.array([[-127, 5], [0, 127]], np.int8)
    scale = np.array([[0.5], [0.25]], np.float16)
    model = model_of(
        [
            helper.make_node("Cast", ["w.int8"], ["w.steps"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["w.scale_fp16"], ["w.scale"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["w.steps", "w.scale"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        {"w.int8": steps, "w.scale_fp16": scale},
    )
    expand_weights(model)
    np.testing.assert_array_equal(initializers(model)["w"], [[-63.5, 2.5], [0, 31.75]])
    assert [node.op_type for node in model.graph.node] == ["MatMul"]


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
