"""Teachers by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from samus_edge.errors import WeightsError
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.modeling import SamusHF
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.training.teacher import load_teacher
from samus_edge.weights.model_file import save_model
from tests.conftest import AssetFrame

TOLERANCE = 1e-4
"""Float32 in another batch and memory layout, values around 1."""


@pytest.fixture(scope="module")
def weights(random_model: SamusHF, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of ours."""
    path: Path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_model(random_model, path, {"arch": "tiny", "hf": True, "gate": True})
    return path


def test_our_own_weights_teach_what_the_model_computes(
    weights: Path, random_model: SamusHF, asset_frames: list[AssetFrame]
) -> None:
    frames = [frame.image for frame in asset_frames[-2:]]  # of different sizes
    assert frames[0].shape != frames[1].shape
    teacher = load_teacher(str(weights), precision="fp32")
    assert teacher.weights_sha256 == sha256_of_file(weights)
    with torch.no_grad():
        each = [random_model.encode_frames(torch.from_numpy(frame)[None]) for frame in frames]
    got = teacher.embeddings(frames)
    assert got.shape == (2, 256, 32, 32)
    torch.testing.assert_close(got, torch.cat(each), rtol=0, atol=TOLERANCE)


def test_mixed_precision_gives_about_the_same_embeddings(
    weights: Path, asset_frames: list[AssetFrame]
) -> None:
    frames = [asset_frames[-1].image]
    exact = load_teacher(str(weights), precision="fp32").embeddings(frames)
    mixed = load_teacher(str(weights), precision="bf16").embeddings(frames)
    assert mixed.dtype == torch.float32
    # bf16 keeps 8 bits; its rounding grows through the layers
    error = (mixed - exact).square().mean() / exact.var()
    assert 0 < error < 0.01


def test_masks_are_those_of_the_evaluation(
    weights: Path, random_model: SamusHF, asset_frames: list[AssetFrame]
) -> None:
    frame = asset_frames[-1]
    height, width = frame.image.shape
    boxes = np.stack([frame.box, np.array([0, 0, width / 2, height / 2], np.float32)])
    predictor = TorchPredictor(random_model)
    expected = predictor.predict(predictor.encode(frame.image), boxes=boxes).masks[:, 0]
    got = load_teacher(str(weights), precision="fp32").masks(frame.image, boxes)
    assert got.shape == (2, height, width)
    assert got.dtype == np.bool_
    # logits that are zero but for rounding may fall on either side
    assert (got != expected).mean() < 0.001


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"other\.safetensors is not a samus-edge weights file"):
        load_teacher(str(path), precision="fp32")
    settings = json.dumps({"arch": "tiny", "hf": True, "gate": True})
    metadata = {"format": "samus-edge-weights", "settings": settings}
    save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_teacher(str(path), precision="fp32")
    with pytest.raises(WeightsError, match=r"missing\.safetensors"):
        load_teacher(str(tmp_path / "missing.safetensors"), precision="fp32")
