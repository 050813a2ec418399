"""Graphs before and after, run on ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from samus_edge.runtime.backends.tensorrt.engine_graph import graph_for_tensorrt
from samus_edge.runtime.bundle.bundle import Bundle

DEFAULT_BUNDLE = Path(__file__).parents[4] / "runtime" / "default_bundle"
STEPS = np.array([[-128, -1], [0, 127]], np.int8)


def graph_of_steps(nodes: list[onnx.NodeProto], *, raw: bool = True) -> bytes:
    """A graph with the int8 initialiser `steps` (2, 2) and the input `x` (rows, 2)."""
    if raw:
        steps = numpy_helper.from_array(STEPS, "steps")
    else:
        steps = helper.make_tensor("steps", TensorProto.INT8, STEPS.shape, STEPS.ravel().tolist())
    graph = helper.make_graph(
        nodes,
        "steps",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [steps, numpy_helper.from_array(np.array(0.5, np.float32), "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


CAST = helper.make_node("Cast", ["steps"], ["weights"], to=TensorProto.FLOAT)
PRODUCT = helper.make_node("MatMul", ["x", "weights"], ["y"])


@pytest.mark.parametrize("raw", [True, False])
def test_int8_behind_a_cast_becomes_int32_of_the_same_values(raw: bool) -> None:
    graph = graph_for_tensorrt(graph_of_steps([CAST, PRODUCT], raw=raw), {})
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    steps = model.graph.initializer[0]
    assert steps.data_type == TensorProto.INT32
    np.testing.assert_array_equal(numpy_helper.to_array(steps), STEPS)
    (y,) = ort.InferenceSession(graph).run(None, {"x": np.eye(2, dtype=np.float32)})
    np.testing.assert_array_equal(y, STEPS.astype(np.float32))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("DequantizeLinear", ["steps", "scale"], ["weights"]), PRODUCT],
        [
            CAST,
            helper.make_node("DequantizeLinear", ["steps", "scale"], ["others"]),
            helper.make_node("Add", ["weights", "others"], ["sum"]),
            helper.make_node("MatMul", ["x", "sum"], ["y"]),
        ],
    ],
)
def test_int8_that_is_dequantised_stays(nodes: list[onnx.NodeProto]) -> None:
    graph = graph_of_steps(nodes)
    assert graph_for_tensorrt(graph, {}) == graph


def test_a_size_takes_the_place_of_a_name() -> None:
    graph = graph_of_steps([CAST, PRODUCT])
    model = onnx.load_from_string(graph_for_tensorrt(graph, {"x": [300, None]}))
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert [dimension.dim_value for dimension in dimensions] == [300, 2]


def test_sizes_that_the_graph_fixes_and_other_inputs_stay() -> None:
    graph = graph_of_steps([CAST, PRODUCT])
    same = graph_for_tensorrt(graph, {})
    assert graph_for_tensorrt(graph, {"x": [None, 7], "other": [1]}) == same


@pytest.mark.parametrize("content", [b"not a graph", b"\x3a\x05\x00", b"\x3b", b"\xff" * 12])
def test_bytes_that_are_no_message_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"at byte \d+"):
        graph_for_tensorrt(content, {})


def test_the_default_mask_decoder_computes_the_same() -> None:
    before = Bundle.open(DEFAULT_BUNDLE).read_graph("mask_decoder")
    after = graph_for_tensorrt(before, {"point_labels": [1, None]})
    assert len(after) > len(before)
    rng = np.random.default_rng(0)
    feeds = {
        "image_embeddings": rng.normal(size=(1, 256, 32, 32)).astype(np.float32),
        "point_coords": np.array([[[30, 40], [200, 180]]], np.float32),
        "point_labels": np.array([[2, 3]], np.float32),
        "mask_input": np.zeros((1, 1, 128, 128), np.float32),
        "has_mask_input": np.zeros((1, 1), np.float32),
    }
    for old, new in zip(
        ort.InferenceSession(before).run(None, feeds),
        ort.InferenceSession(after).run(None, feeds),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)  # the same casts of the same integers
