"""Mixed half precision: which types there are, and what it computes."""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from samus_edge.calibration.activation_ranges import measure_ranges
from samus_edge.calibration.half_precision import float_tensors, nodes_to_keep, to_half_precision
from samus_edge.calibration.quantisation import TENSORRT_INT8, quantise
from tests.small_graphs import model_of, run

HALF_TOLERANCE = 5e-3
"""Relative; half precision has 11 bits, and the graphs have few operators."""

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
MAY_MIX = {
    "Cast": "its purpose",
    "Resize": "scales and sizes have types of their own",
    "QuantizeLinear": "scale as input, checked by itself",
}


def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"m/{operator}/{output}", **attributes)


def types_of(model: ModelProto) -> dict[str, int]:
    """Element types of all tensors, as shape inference of the written graph finds them."""
    onnx.checker.check_model(model, full_check=True)
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    return types | {item.name: item.data_type for item in graph.initializer}


def check_types(model: ModelProto, kept: Collection[str]) -> dict[str, set[int]]:
    """Assert strong typing; returns the float types that each node reads and gives."""
    types = types_of(model)
    found = {}
    for each in model.graph.node:
        kinds = {types[name] for name in (*each.input, *each.output) if name} & set(FLOATS)
        if each.op_type not in MAY_MIX:
            assert len(kinds) <= 1, (each.name, kinds)
            if each.name in kept:
                assert kinds <= {TensorProto.FLOAT}, each.name
        if each.op_type == "QuantizeLinear":
            assert types[each.input[0]] == types[each.input[1]]
        found[each.name] = kinds
    return found


X = np.array([[0.5, -1.0, 2.0, 3.0]], np.float32)
W = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)


@pytest.fixture
def branches() -> ModelProto:
    """A kept product and a half one that share weights and an input, added."""
    return model_of(
        [
            node("MatMul", ["x", "w"], "kept"),
            node("MatMul", ["x", "w"], "half"),
            node("Mul", ["kept", "half"], "product"),
            node("Relu", ["product"], "y"),
        ],
        {"w": W},
    )


def test_everything_but_kept_nodes_and_the_interface_is_half(branches: ModelProto) -> None:
    kept = ["m/MatMul/kept"]
    before = branches.SerializeToString(deterministic=True)
    converted = to_half_precision(branches, kept)
    kinds = check_types(converted, kept)
    assert kinds["m/MatMul/kept"] == {TensorProto.FLOAT}
    for name in ("m/MatMul/half", "m/Mul/product", "m/Relu/y"):
        assert kinds[name] == {TensorProto.FLOAT16}
    types = types_of(converted)
    assert types["x"] == types["y"] == TensorProto.FLOAT
    assert (types["w"], types["w/fp32"]) == (TensorProto.FLOAT16, TensorProto.FLOAT)
    assert branches.SerializeToString(deterministic=True) == before
    np.testing.assert_allclose(
        run(converted, x=X), np.maximum((X @ W) ** 2, 0), rtol=HALF_TOLERANCE, atol=HALF_TOLERANCE
    )


def test_a_tensor_is_cast_once_for_all_its_readers(branches: ModelProto) -> None:
    converted = to_half_precision(branches, ["m/Mul/product"])
    targets = [each.output[0] for each in converted.graph.node if each.op_type == "Cast"]
    # x for both products, either product for the multiplication, and back, and the output
    assert sorted(targets) == ["half/fp32", "kept/fp32", "product/fp16", "x/fp16", "y"]


def test_all_nodes_kept_is_the_same_graph(branches: ModelProto) -> None:
    names = [each.name for each in branches.graph.node]
    converted = to_half_precision(branches, names)
    assert converted.graph.node == branches.graph.node
    np.testing.assert_array_equal(run(converted, x=X), run(branches, x=X))


def test_an_output_that_is_read_again_keeps_float32() -> None:
    model = model_of([node("Mul", ["x", "x"], "y"), node("Relu", ["y"], "z")], {})
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4]))
    converted = to_half_precision(model, [])
    check_types(converted, [])
    types = types_of(converted)
    assert types["y"] == types["z"] == TensorProto.FLOAT
    np.testing.assert_array_equal(run(converted, x=X), X * X)


def test_an_overflow_is_found_by_range_and_kept() -> None:
    model = model_of(
        [
            node("Mul", ["x", "c"], "large"),
            node("Mul", ["large", "x"], "larger"),
            node("Div", ["larger", "d"], "small"),
            node("Relu", ["small"], "y"),
        ],
        {"c": np.array([3e4], np.float32), "d": np.array([6e4], np.float32)},
    )
    tensors = sorted(float_tensors(model) - {"c", "d"})
    ranges = measure_ranges(model, tensors, [{"x": X}])
    kept = nodes_to_keep(model, {name: max(-low, high) for name, (low, high) in ranges.items()})
    assert [(each.name, each.reason) for each in kept] == [
        ("m/Mul/large", "range"),
        ("m/Mul/larger", "range"),
        ("m/Div/small", "range"),
    ]
    with np.errstate(over="ignore", invalid="ignore"):
        # each product rounded to half precision, as on hardware that computes in it
        naive = onnx.reference.ReferenceEvaluator(to_half_precision(model, [])).run(None, {"x": X})
    assert not np.isfinite(np.asarray(naive)).all()
    found = run(to_half_precision(model, [each.name for each in kept]), x=X)
    np.testing.assert_allclose(found, np.maximum(X * X / 2, 0), rtol=HALF_TOLERANCE)


def test_constants_that_half_precision_does_not_hold_keep_their_nodes() -> None:
    model = model_of(
        [
            node("Add", ["x", "lowest"], "masked"),
            node("Add", ["x", "epsilon"], "shifted"),
            node("Mul", ["x", "largest"], "y"),
        ],
        {
            "lowest": np.array([-3.4e38], np.float32),
            "epsilon": np.array([1e-12], np.float32),
            "largest": np.array([65504], np.float32),  # does not grow, so it needs no headroom
        },
    )
    kept = [each.name for each in nodes_to_keep(model, {"x": 1.0, "y": 1.0})]
    assert kept == ["m/Add/masked", "m/Add/shifted"]


def test_operators_and_coordinates_are_kept() -> None:
    model = model_of(
        [
            node("Softmax", ["x"], "a"),
            helper.make_node("Sin", ["a"], ["b"], name="prompt_encoder/pe_layer/Sin"),
            helper.make_node("Mul", ["b", "b"], ["y"], name="preprocessing/Mul"),
        ],
        {},
    )
    found = [(each.name, each.reason) for each in nodes_to_keep(model, {})]
    assert found == [
        ("m/Softmax/a", "operator"),
        ("prompt_encoder/pe_layer/Sin", "coordinates and grey levels"),
        ("preprocessing/Mul", "coordinates and grey levels"),
    ]


@pytest.mark.parametrize("keep", [False, True])
def test_scales_of_a_resize_stay_float32(keep: bool) -> None:
    model = model_of(
        [
            node("Reshape", ["x", "shape"], "image"),
            helper.make_node(
                "Resize", ["image", "", "scales"], ["y"], name="m/Resize", mode="nearest"
            ),
        ],
        {
            "shape": np.array([1, 1, 2, 2]),
            "scales": np.array([1, 1, 1.5, 8 / 3], np.float32),
        },
        rank=4,
    )
    kept = ["m/Resize"] if keep else []
    converted = to_half_precision(model, kept)
    check_types(converted, kept)
    assert types_of(converted)["scales"] == TensorProto.FLOAT
    np.testing.assert_array_equal(run(converted, x=X), run(model, x=X))


def test_casts_and_constants_make_half_precision() -> None:
    model = model_of(
        [
            node("Shape", ["x"], "sizes"),
            node("Cast", ["sizes"], "count", to=TensorProto.FLOAT),
            node("ReduceMax", ["count"], "four", keepdims=0),
            node(
                "ConstantOfShape",
                ["sizes"],
                "filled",
                value=numpy_helper.from_array(np.array([0.25], np.float32)),
            ),
            node("Mul", ["filled", "four"], "ones"),
            node("Add", ["ones", "x"], "y"),
        ],
        {},
    )
    converted = to_half_precision(model, [])
    check_types(converted, [])
    np.testing.assert_array_equal(run(converted, x=X), X + 1)


@pytest.mark.parametrize("kept", [(), ("m/MatMul/kept",), ("m/MatMul/kept", "m/MatMul/half")])
def test_quantised_graphs_convert(kept: tuple[str, ...], branches: ModelProto) -> None:
    names = ["m/MatMul/kept", "m/MatMul/half"]
    quantised = quantise(branches, names, {"x": (-4.0, 4.0)}, TENSORRT_INT8)
    converted = to_half_precision(quantised, kept)
    kinds = check_types(converted, kept)
    pairs_in_float = len(kept) == 2  # pairs change with the nodes that read them
    expected = {TensorProto.FLOAT if pairs_in_float else TensorProto.FLOAT16}
    assert kinds["x/DequantizeLinear"] == kinds["w/DequantizeLinear"] == expected
    np.testing.assert_allclose(
        run(converted, x=X), run(quantised, x=X), rtol=HALF_TOLERANCE, atol=HALF_TOLERANCE
    )


def test_a_quantised_tensor_that_overflows_half_precision_is_read_whole() -> None:
    model = model_of(
        [
            node("Mul", ["x", "c"], "large"),
            node("MatMul", ["large", "w"], "z"),
            node("Mul", ["z", "d"], "y"),
        ],
        {"c": np.array([4e4], np.float32), "w": W, "d": np.array([1e-5], np.float32)},
    )
    kept = [each.name for each in nodes_to_keep(model, {"large": 1.2e5, "z": 1e5})]
    quantised = quantise(model, ["m/MatMul/z"], {"large": (-1.2e5, 1.2e5)}, TENSORRT_INT8)
    converted = to_half_precision(quantised, kept)
    check_types(converted, kept)
    np.testing.assert_allclose(run(converted, x=X), run(quantised, x=X), rtol=HALF_TOLERANCE)


def test_types_that_cannot_be_told_are_named() -> None:
    model = model_of([helper.make_node("Odd", ["x"], ["y"], domain="of.ours", name="odd")], {})
    model.opset_import.append(helper.make_opsetid("of.ours", 1))
    model.graph.node.append(helper.make_node("Odd", ["y"], ["z"], domain="of.ours", name="odder"))
    with pytest.raises(ValueError, match=r"unknown: z\."):
        float_tensors(model)
