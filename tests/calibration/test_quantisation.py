"""Q/DQ graphs against an emulation of their grids in numpy."""

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from samus_edge.calibration.quantisation import (
    CPU_INT8,
    TENSORRT_INT8,
    QuantisationRecipe,
    activation_grid,
    quantisable_nodes,
    quantise,
    weight_grid,
)
from tests.small_graphs import Array, model_of, run

ROUNDING = 1e-5
"""Relative; sums of a few float32 products in another order."""

BOTH = pytest.mark.parametrize("recipe", [TENSORRT_INT8, CPU_INT8], ids=lambda each: each.name)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def on_activation_grid(x: Array, low: float, high: float, recipe: QuantisationRecipe) -> Array:
    """By the formulas of the ONNX operators."""
    if recipe.symmetric:
        scale = np.float32(np.float16(max(-low, high) / 127))
        return np.asarray(np.clip(np.rint(x / scale), -128, 127) * scale, np.float32)
    scale = np.float32(np.float16((high - low) / 255))
    zero = np.rint(-low / scale)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale, np.float32)


def on_weight_grid(weights: Array, axis: int) -> Array:
    channels = []
    for channel in np.moveaxis(weights, axis, 0):
        scale = np.float32(np.float16(np.abs(channel).max() / 127)) or np.float32(1)
        channels.append(np.clip(np.rint(channel / scale), -127, 127) * scale)
    return np.moveaxis(np.array(channels, np.float32), 0, axis)


def spread(weights: Array, axis: int) -> Array:
    """Weights whose channels have scales from 0.001 to 10."""
    shape = [1] * weights.ndim
    shape[axis] = -1
    factors = np.geomspace(1e-3, 10, weights.shape[axis]).astype(np.float32)
    return weights * factors.reshape(shape)


@BOTH
@pytest.mark.parametrize(
    ("operator", "attributes", "axis"),
    [("MatMul", {}, 1), ("Gemm", {"transB": 0}, 1), ("Gemm", {"transB": 1}, 0)],
)
def test_matrix_products_compute_on_the_grids(
    operator: str, attributes: dict[str, Any], axis: int, recipe: QuantisationRecipe
) -> None:
    weights = spread(random(8, 8), axis)
    node = helper.make_node(operator, ["x", "w"], ["y"], name="m/" + operator, **attributes)
    model = model_of([node], {"w": weights}, {"x": 2}, "y")
    x = random(5, 8, seed=1)
    quantised = quantise(model, [node.name], {"x": (-1.5, 2.5)}, recipe)
    expected_weights = on_weight_grid(weights, axis)
    # every channel by itself is close: one scale for all would lose the small ones
    worst = np.abs(expected_weights - weights).max(axis=1 - axis)
    assert (worst <= np.abs(weights).max(axis=1 - axis) / 200).all()
    grid = on_activation_grid(x, -1.5, 2.5, recipe)
    expected = grid @ (expected_weights.T if attributes.get("transB") else expected_weights)
    np.testing.assert_allclose(run(quantised, x=x), expected, rtol=ROUNDING, atol=ROUNDING)


def test_convolutions_compute_on_the_grids_and_keep_a_float_bias() -> None:
    weights, bias = spread(random(4, 3, 1, 1), 0), random(4, seed=2)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="c/Conv")
    model = model_of([node], {"w": weights, "b": bias}, {"x": 4}, "y")
    x = random(1, 3, 5, 6, seed=1)
    quantised = quantise(model, ["c/Conv"], {"x": (-2.0, 1.0)}, TENSORRT_INT8)
    kernel = on_weight_grid(weights, 0)[:, :, 0, 0]
    grid = on_activation_grid(x, -2, 1, TENSORRT_INT8)
    expected = np.einsum("oc,bchw->bohw", kernel, grid) + bias[:, None, None]
    np.testing.assert_allclose(run(quantised, x=x), expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.fixture
def shared() -> ModelProto:
    """Two products that read one relu, whose result is an output of a third node as well."""
    return model_of(
        [
            helper.make_node("Relu", ["x"], ["r"], name="a/Relu"),
            helper.make_node("MatMul", ["r", "w"], ["left"], name="a/MatMul"),
            helper.make_node("MatMul", ["r", "v"], ["right"], name="b/MatMul"),
            helper.make_node("Add", ["left", "right"], ["sum"], name="b/Add"),
            helper.make_node("Add", ["sum", "r"], ["y"], name="b/Add_1"),
        ],
        {"w": random(6, 6), "v": random(6, 6, seed=3)},
        {"x": 2},
        "y",
    )


@BOTH
def test_a_shared_activation_is_quantised_once_and_other_readers_get_it_in_float(
    shared: ModelProto, recipe: QuantisationRecipe
) -> None:
    quantised = quantise(shared, ["a/MatMul", "b/MatMul"], {"r": (0.0, 1.5)}, recipe)
    operators = [node.op_type for node in quantised.graph.node]
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("DequantizeLinear") == 3  # two weights
    x = random(4, 6, seed=4)
    r = np.maximum(x, 0)
    grid = on_activation_grid(r, 0, 1.5, recipe)
    w, v = (on_weight_grid(random(6, 6, seed=seed), 1) for seed in (0, 3))
    expected = grid @ w + grid @ v + r
    np.testing.assert_allclose(run(quantised, x=x), expected, rtol=ROUNDING, atol=ROUNDING)
    assert "r/dequantised" not in quantised.graph.node[-1].input


def test_only_the_chosen_nodes_change(shared: ModelProto) -> None:
    before = shared.SerializeToString(deterministic=True)
    quantised = quantise(shared, ["a/MatMul"], {"r": (0.0, 1.5)}, TENSORRT_INT8)
    nodes = {node.name: node for node in quantised.graph.node}
    assert list(nodes["b/MatMul"].input) == ["r", "v"]
    assert {item.name for item in quantised.graph.initializer} >= {"v", "w/int8"}
    assert "w" not in {item.name for item in quantised.graph.initializer}
    assert shared.SerializeToString(deterministic=True) == before
    assert quantise(shared, [], {}, TENSORRT_INT8).graph.node == shared.graph.node


def test_weights_that_are_read_transposed_as_well_have_a_grid_for_each() -> None:
    weights = spread(spread(random(6, 6), 0), 1)
    model = model_of(
        [
            helper.make_node("Gemm", ["x", "w"], ["h"], name="a/Gemm"),
            helper.make_node("Gemm", ["h", "w"], ["y"], name="b/Gemm", transB=1),
        ],
        {"w": weights},
        {"x": 2},
        "y",
    )
    ranges = {"x": (-2.0, 2.0), "h": (-9.0, 9.0)}
    quantised = quantise(model, ["a/Gemm", "b/Gemm"], ranges, TENSORRT_INT8)
    x = random(3, 6, seed=1)
    h = on_activation_grid(x, -2, 2, TENSORRT_INT8) @ on_weight_grid(weights, 1)
    expected = on_activation_grid(h, -9, 9, TENSORRT_INT8) @ on_weight_grid(weights, 0).T
    np.testing.assert_allclose(run(quantised, x=x), expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_quantisable() -> None:
    model = model_of(
        [
            helper.make_node("Conv", ["x", "k"], ["p"], name="preprocessing/Conv"),
            helper.make_node("Conv", ["p", "d"], ["g"], name="a/Conv", group=2),
            helper.make_node("MatMul", ["g", "g"], ["s"], name="a/MatMul"),
            helper.make_node("MatMul", ["w", "s"], ["t"], name="b/MatMul"),
            helper.make_node("MatMul", ["bias", "w"], ["u"], name="c/MatMul"),
            helper.make_node("Add", ["t", "u"], ["v"], name="d/Add"),
            helper.make_node("MatMul", ["v", "w"], ["y"], name="e/MatMul"),
        ],
        {
            "k": random(2, 1, 1, 1),
            "d": random(2, 1, 1, 1),
            "w": random(4, 4),
            "bias": random(4),
        },
        {"x": 4},
        "y",
    )
    assert list(quantisable_nodes(model, TENSORRT_INT8)) == ["e/MatMul"]


def test_unknown_nodes_and_missing_ranges_are_named(shared: ModelProto) -> None:
    with pytest.raises(ValueError, match=r"cannot quantise a/Relu, nowhere by the recipe 'int8'"):
        quantise(shared, ["nowhere", "a/MatMul", "a/Relu"], {"r": (0, 1)}, TENSORRT_INT8)
    with pytest.raises(ValueError, match=r"ranges must have r\."):
        quantise(shared, ["a/MatMul"], {}, TENSORRT_INT8)


def test_the_symmetric_recipe_is_what_tensorrt_reads(shared: ModelProto) -> None:
    quantised = quantise(shared, ["a/MatMul", "b/MatMul"], {"r": (0.0, 1.5)}, TENSORRT_INT8)
    tensors = {item.name: numpy_helper.to_array(item) for item in quantised.graph.initializer}
    pairs = [
        node
        for node in quantised.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(pairs) == 4
    for node in pairs:
        scale, zero_point = tensors[node.input[1]], tensors[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        assert scale.dtype == np.float32
        np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)


def test_channels_of_zeros_have_the_scale_1() -> None:
    weights = random(3, 4)
    weights[:, 2] = 0
    steps, scale = weight_grid(weights, 1)
    assert scale[2] == 1
    assert not steps[:, 2].any()
    assert (scale[[0, 1, 3]] < 0.1).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (0.0, 1e-9), (-1e9, 1e9), (0.0, 3.0), (-3.0, 0.0)]
)
def test_grids_of_extreme_ranges_are_usable(low: float, high: float, symmetric: bool) -> None:
    scale, zero_point = activation_grid(low, high, symmetric=symmetric)
    assert scale.shape == zero_point.shape == ()
    assert 0 < scale < np.inf
    assert scale == np.float16(scale)
    if symmetric:
        assert zero_point == 0
    elif abs(low) < 1e6:
        assert int(zero_point) in ((255,) if low < 0 else (0,))
