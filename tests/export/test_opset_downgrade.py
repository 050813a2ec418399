"""Graphs for older operator sets."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from samus_edge.calibration.weight_storage import expand_weights
from samus_edge.export.opset_downgrade import OLDEST_OPSET, downgrade
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
