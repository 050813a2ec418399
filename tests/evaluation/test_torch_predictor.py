"""The torch predictor is a stand-in for the runtime's Segmenter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from samus_edge.errors import WeightsError
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.modeling import SamusHF
from samus_edge.runtime import Segmenter
from samus_edge.weights.model_file import save_model
from tests.conftest import AssetFrame

TOLERANCE = 1e-4
"""Float32 of the same model with other batch sizes; logits are around 1."""


@pytest.fixture
def predictor(random_model: SamusHF) -> TorchPredictor:
    """A predictor of `random_model`."""
    return TorchPredictor(random_model)


def test_a_box_and_points_in_pixels_of_the_image_reach_the_model(
    predictor: TorchPredictor, random_model: SamusHF, asset_frames: list[AssetFrame]
) -> None:
    image = asset_frames[-1].image
    height, width = image.shape
    box, point = [3.0, 5.0, width - 8.0, height - 4.0], [width / 2, height / 3]
    embedding = predictor.encode(image)
    assert embedding.original_hw == image.shape
    prediction = predictor.decode(embedding, boxes=[box], point_coords=[[point]])
    corners = np.array([box[:2], box[2:], point])
    coords = (corners + 0.5) * (256 / width, 256 / height) - 0.5
    with torch.no_grad():
        masks, ious = random_model.decode(
            random_model.encode_frames(torch.from_numpy(image)[None]),
            torch.from_numpy(coords).float()[None],
            torch.tensor([[2.0, 3.0, 1.0]]),
            torch.zeros(1, 1, 128, 128),
            torch.zeros(1, 1),
        )
        upscaled = F.interpolate(masks[:, :1], size=(height, width), mode="bilinear")
    np.testing.assert_allclose(prediction.low_res_logits, masks[:, :1], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(prediction.iou_predictions, ious[:, :1], rtol=0, atol=TOLERANCE)
    assert prediction.masks.shape == (1, 1, height, width)
    assert prediction.masks.dtype == np.bool_
    sure = np.abs(upscaled.numpy()) > TOLERANCE
    np.testing.assert_array_equal(prediction.masks[sure], (upscaled.numpy() > 0)[sure])


def test_wrong_prompts_are_refused_as_by_the_runtime(
    predictor: TorchPredictor, random_bundle: Path, asset_frames: list[AssetFrame]
) -> None:
    image = asset_frames[-1].image
    with Segmenter.load(random_bundle, threads=1) as segmenter:
        for prompts in ({}, {"boxes": [[5, 5, 2, 9]]}, {"point_coords": [[[1e6, 3]]]}):
            messages = []
            for one in (predictor, segmenter):
                with pytest.raises(ValueError) as caught:
                    one.predict(one.encode(image), **prompts)  # type: ignore[arg-type]  # on purpose
                messages.append(str(caught.value))
            assert messages[0] == messages[1]


def test_weights_are_loaded_from_a_file(
    random_model: SamusHF, tmp_path: Path, asset_frames: list[AssetFrame]
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(random_model, path, {"arch": "tiny", "hf": True, "gate": True})
    image = asset_frames[-1].image
    loaded = TorchPredictor.load(path).encode(image).image_embeddings
    expected = TorchPredictor(random_model).encode(image).image_embeddings
    np.testing.assert_array_equal(loaded, expected)
    with pytest.raises(WeightsError, match="nowhere"):
        TorchPredictor.load(tmp_path / "nowhere.safetensors")
