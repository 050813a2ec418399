"""Graphs lose what nothing needs, and compute what they computed."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser

from samus_edge.export.graph_cleanup import fix_resize_sizes, remove_unused
from tests.export.conftest import run_graph

RESIZE = """
<ir_version: 9, opset_import: ["" : 20]>
resize (float[batch, 1, 4, 4] x) => (float[batch, 1, 6, 6] y)
<int64[2] size = {6, 6}, float[4] scales = {1.0, 1.0, 1.5, 1.5}>
{
    batch_and_channels = Shape <start = 0, end = 2> (x)
    sizes = Concat <axis = 0> (batch_and_channels, size)
    y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (x, , , sizes)
}
"""

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


def test_a_constant_size_needs_no_shape() -> None:
    model: ModelProto = parser.parse_model(RESIZE)
    x = np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32)
    expected = run_graph(model.SerializeToString())({"x": x})["y"]
    fix_resize_sizes(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Resize"]
    found = run_graph(model.SerializeToString())({"x": x})["y"]
    assert found.shape == (3, 1, 6, 6)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(x, , , sizes)", "(x, , scales)"),
        ("(batch_and_channels, size)", "(size, batch_and_channels)"),
    ],
    ids=["scales", "a size that is computed"],
)
def test_other_ways_to_resize_stay(old: str, new: str) -> None:
    assert old in RESIZE
    model: ModelProto = parser.parse_model(RESIZE.replace(old, new))
    resize = model.graph.node[-1].SerializeToString()
    fix_resize_sizes(model)
    assert model.graph.node[-1].SerializeToString() == resize


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
    fix_resize_sizes(model)
    assert model.SerializeToString(deterministic=True) == before
