"""Image encoders of one frame size."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from samus_edge.export.frame_size import freeze_frame_size
from tests.conftest import AssetFrame
from tests.export.conftest import RunGraph, run_graph


def test_the_frozen_encoder_computes_the_same_and_takes_nothing_else(
    random_bundle: Path, run_image_encoder: RunGraph, asset_frames: list[AssetFrame]
) -> None:
    frame = asset_frames[-1].image
    model = onnx.load(str(random_bundle / "image_encoder.onnx"))
    height, width = frame.shape
    freeze_frame_size(model, (height, width))
    onnx.checker.check_model(model, full_check=True)
    shapes = [
        [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, height, width], [1, 256, 32, 32]]
    run = run_graph(model.SerializeToString())
    feeds = {"image": frame[None]}
    np.testing.assert_allclose(
        run(feeds)["image_embeddings"],
        run_image_encoder(feeds)["image_embeddings"],
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(InvalidArgument, match="image"):
        run({"image": frame[None, :-1]})


def test_a_frame_has_at_least_one_pixel(random_bundle: Path) -> None:
    model = onnx.load(str(random_bundle / "image_encoder.onnx"))
    with pytest.raises(ValueError, match="frame_hw must be at least 1x1, got 0x640"):
        freeze_frame_size(model, (0, 640))
