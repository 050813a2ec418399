"""Graphs lose what nothing needs, and compute what they computed."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser

from samus_edge.export.graph_cleanup import OLDEST_OPSET, downgrade, remove_unused, slice_constants
from samus_edge.export.weight_storage import expand_weights
from tests.conftest import AssetFrame
from tests.export.conftest import Array, run_graph


def feeds_of(graph: str, frame: Array) -> dict[str, Array]:
    """Something of each input's shape."""
    if graph == "image_encoder":
        return {"image": np.stack([frame, frame[::-1]])}
    rng = np.random.default_rng(0)
    return {
        "image_embeddings": rng.normal(size=(1, 256, 32, 32)).astype(np.float32),
        "point_coords": rng.uniform(0, 255, size=(2, 3, 2)).astype(np.float32),
        "point_labels": np.array([[2, 3, 1], [1, 0, -1]], np.float32),
        "mask_input": rng.normal(size=(2, 1, 128, 128)).astype(np.float32),
        "has_mask_input": np.array([[1], [0]], np.float32),
    }


@pytest.mark.parametrize("graph", ["image_encoder", "mask_decoder"])
@pytest.mark.parametrize("opset", [17, 18, 19])
def test_a_downgraded_graph_computes_the_same(
    random_bundle: Path, asset_frames: list[AssetFrame], graph: str, opset: int
) -> None:
    model = onnx.load(str(random_bundle / f"{graph}.onnx"))
    expand_weights(model)
    feeds = feeds_of(graph, asset_frames[-1].image)
    expected = run_graph(model.SerializeToString())(feeds)
    downgrade(model, opset)
    onnx.checker.check_model(model, full_check=True)
    assert [item.version for item in model.opset_import if item.domain == ""] == [opset]
    operators = {node.op_type for node in model.graph.node}
    assert "Gelu" not in operators and {"Erf", "LayerNormalization"} <= operators
    outputs = run_graph(model.SerializeToString())(feeds)
    assert outputs.keys() == expected.keys()
    for name, values in outputs.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=2e-4)


def test_what_the_newer_operator_sets_added_is_gone(random_bundle: Path) -> None:
    model = onnx.load(str(random_bundle / "image_encoder.onnx"))
    downgrade(model, OLDEST_OPSET)
    for node in model.graph.node:
        attributes = {item.name for item in node.attribute}
        if node.op_type in ("Resize", "Pad"):
            assert not attributes & {"axes", "antialias", "keep_aspect_ratio_policy"}
        if node.op_type == "Pad":
            assert len(node.input) <= 3
        if node.op_type in ("ReduceMin", "ReduceMax"):
            assert len(node.input) == 1 and "axes" in attributes


SIDE_BRANCH = """
<ir_version: 9, opset_import: ["" : 20]>
branches (float[2] x, float[2] other) => (float[2] y)
<float[2] one = {1.0, 1.0}, float[2] two = {2.0, 2.0}>
{
    sum = Add (x, one)
    product = Mul (other, two)
    beyond = Neg (product)
    y = Relu (sum)
}
"""


GATHERS = """
<ir_version: 9, opset_import: ["" : 20]>
biases (float[rows, 9] x, float[rows, 3] z) => (float[rows, 9] y, float[rows, 2] w)
<
    float[1, 3] first = {1.0, 2.0, 3.0}, float[1, 3] second = {4.0, 5.0, 6.0},
    int64[9] distances = {0, 1, 2, 1, 0, 1, 2, 1, 0}, int64[2] two = {2, 0}
>
{
    first_bias = Gather <axis = 1> (first, distances)
    second_bias = Gather <axis = 1> (second, distances)
    sum = Add (x, first_bias)
    y = Add (sum, second_bias)
    w = Gather <axis = 1> (z, two)
}
"""


def test_constants_are_sliced_and_what_is_computed_is_gathered() -> None:
    model: ModelProto = parser.parse_model(GATHERS)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.random((2, 9), np.float32), "z": rng.random((2, 3), np.float32)}
    slice_constants(model)
    onnx.checker.check_model(model, full_check=True)
    assert Counter(node.op_type for node in model.graph.node)["Gather"] == 1
    outputs = run_graph(model.SerializeToString())(feeds)
    bias = np.array([5, 7, 9, 7, 5, 7, 9, 7, 5], np.float32)  # 1 + 4, 2 + 5, 3 + 6
    np.testing.assert_allclose(outputs["y"], feeds["x"] + bias, rtol=1e-6)
    np.testing.assert_array_equal(outputs["w"], feeds["z"][:, [2, 0]])


def test_what_no_output_depends_on_is_removed_and_inputs_stay() -> None:
    model: ModelProto = parser.parse_model(SIDE_BRANCH)
    model = onnx.shape_inference.infer_shapes(model)
    remove_unused(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add", "Relu"]
    assert [item.name for item in model.graph.initializer] == ["one"]
    assert [item.name for item in model.graph.value_info] == ["sum"]
    assert [item.name for item in model.graph.input] == ["x", "other"]
    feeds = {"x": np.array([-2, 3], np.float32), "other": np.zeros(2, np.float32)}
    np.testing.assert_array_equal(run_graph(model.SerializeToString())(feeds)["y"], [0, 4])


def test_a_graph_that_needs_everything_is_left_alone() -> None:
    model: ModelProto = parser.parse_model(SIDE_BRANCH)
    remove_unused(model)
    before = model.SerializeToString(deterministic=True)
    remove_unused(model)
    slice_constants(model)
    assert model.SerializeToString(deterministic=True) == before
