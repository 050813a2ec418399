"""Teachers by name."""

import json
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from samus_edge.errors import WeightsError
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.modeling import SamusHF
from samus_edge.runtime.images.output_files import sha256_of_file
from samus_edge.training.teachers import (
    LiteMedSamTeacher,
    load_lite_medsam_model,
    load_teacher,
    padded_input,
)
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
    expected = predictor.decode(predictor.encode(frame.image), boxes=boxes).masks[:, 0]
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
    with pytest.raises(WeightsError, match=r"missing: 526 .*unknown: 1 \(weight\)"):
        load_teacher(str(path), precision="fp32")
    with pytest.raises(WeightsError, match=r"missing\.safetensors"):
        load_teacher(str(tmp_path / "missing.safetensors"), precision="fp32")


CPU = torch.device("cpu")


def test_a_frame_keeps_its_shape_and_is_padded_with_zeros() -> None:
    wide = np.random.default_rng(0).integers(20, 200, (64, 256), dtype=np.uint8)
    wide[0, :2] = 10, 210
    padded, inner_hw = padded_input(wide)
    assert padded.shape == (256, 256) and inner_hw == (64, 256)
    np.testing.assert_allclose(padded[:64], (wide.astype(np.float64) - 10) / 200, atol=1e-6)
    assert not padded[64:].any()


def test_a_large_frame_is_reduced_by_averaging() -> None:
    tall = np.random.default_rng(0).integers(0, 255, (512, 256), dtype=np.uint8)
    padded, inner_hw = padded_input(tall)
    assert inner_hw == (256, 128)
    means = tall.reshape(256, 2, 128, 2).mean(axis=(1, 3))  # 2x2 pixels become one
    expected = (means - means.min()) / (means.max() - means.min())
    # OpenCV rounds the averages to whole grey levels
    np.testing.assert_allclose(padded[:, :128], expected, atol=1.1 / 200)
    assert not padded[:, 128:].any()


def test_a_constant_frame_and_a_line_are_finite() -> None:
    assert not padded_input(np.full((40, 50), 7, np.uint8))[0].any()
    padded, inner_hw = padded_input(np.arange(200, dtype=np.uint8).repeat(5)[None])
    assert inner_hw == (1, 256)
    assert padded.max() == 1.0 and np.isfinite(padded).all()


def test_masks_are_those_of_lite_medsams_own_inference(
    lite_medsam_checkpoint: Path,
    segment_anything_modeling: types.ModuleType,
    asset_frames: list[AssetFrame],
) -> None:
    """Against Segment Anything's decoder with LiteMedSAM's weights, one box at a time."""
    frame = next(f for f in asset_frames if f.image.shape[0] != f.image.shape[1])
    height, width = frame.image.shape
    small = np.array([width * 0.3, height * 0.4, width * 0.6, height * 0.8], np.float32)
    boxes = np.stack([frame.box, small])
    model = load_lite_medsam_model(lite_medsam_checkpoint)
    seen: list[tuple[Tensor, Tensor]] = []
    model.image_encoder.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    teacher = LiteMedSamTeacher(model, "", precision="fp32", device=CPU)
    got = teacher.masks(frame.image, boxes)
    [(image, embeddings)] = seen
    assert torch.equal(image[0, 0], torch.from_numpy(padded_input(frame.image)[0]))
    assert got.shape == (2, height, width) and got.dtype == np.bool_

    sam = segment_anything_modeling
    prompt_encoder = sam.PromptEncoder(
        embed_dim=256,
        image_embedding_size=(64, 64),
        input_image_size=(256, 256),
        mask_in_chans=16,
    )
    transformer = sam.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = sam.MaskDecoder(transformer_dim=256, transformer=transformer)
    weights = torch.load(lite_medsam_checkpoint, weights_only=True)
    for name, module in (("prompt_encoder.", prompt_encoder), ("mask_decoder.", decoder)):
        part = {key[len(name) :]: value for key, value in weights.items() if key.startswith(name)}
        module.load_state_dict(part)
    scale = 256 / max(height, width)
    inner_h, inner_w = round(height * scale), round(width * scale)
    with torch.no_grad():
        for box, mask in zip(boxes, got, strict=True):
            sparse, dense = prompt_encoder(
                points=None, boxes=torch.from_numpy(box * scale)[None], masks=None
            )
            logits, _ = decoder(
                image_embeddings=embeddings,
                image_pe=prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            visible = logits[0, 0, :inner_h, :inner_w].numpy()
            expected = np.asarray(cv2.resize(visible, (width, height))) > 0
            assert expected.any()
            # logits that are zero but for rounding may fall on either side
            assert (mask != expected).mean() < 0.001


def test_another_checkpoint_is_refused(lite_medsam_checkpoint: Path, tmp_path: Path) -> None:
    weights = torch.load(lite_medsam_checkpoint, weights_only=True)
    name = "image_encoder.layers.1.blocks.0.attn.attention_biases"
    path = tmp_path / "lite_medsam.pth"
    cases = {
        r"missing: 1 \(image_encoder\.stage1\.0\.attn\.bias_table\)": {
            key: value for key, value in weights.items() if key != name
        },
        r"of another shape: 1 \(image_encoder\.stage1\.0\.attn\.bias_table \(4, 8, 8\), expected": {
            **weights,
            name: torch.zeros(4, 64),  # of windows of 8 tokens
        },
        r"unknown: 1 \(extra\.weight\)": {
            **weights,
            "extra.weight": torch.zeros(1),
        },
    }
    for message, content in cases.items():
        torch.save(content, path)
        with pytest.raises(WeightsError, match=message):
            LiteMedSamTeacher.load(precision="fp32", device=CPU, checkpoint=path)


def test_its_places_are_averaged_to_the_students(
    lite_medsam_checkpoint: Path, asset_frames: list[AssetFrame]
) -> None:
    class Encoder(nn.Module):
        """Three numbers for each of 64x64 places."""

        def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
            return torch.cat([image[:, :, k::4, k::4] for k in range(3)], dim=1)

    model = load_lite_medsam_model(lite_medsam_checkpoint)
    model.image_encoder = Encoder()
    frames = [frame.image for frame in asset_frames[-2:]]
    got = LiteMedSamTeacher(model, "", precision="fp32", device=CPU).embeddings(frames)
    for embedding, frame in zip(got, frames, strict=True):
        stretched = cv2.resize(frame.astype(np.float32), (256, 256)) / 255  # not padded
        for k in range(3):
            places = np.asarray(stretched)[k::4, k::4].reshape(32, 2, 32, 2)
            np.testing.assert_allclose(embedding[k], places.mean(axis=(1, 3)), atol=1e-5)


def test_it_is_found_by_name(lite_medsam_checkpoint: Path) -> None:
    teacher = load_teacher("lite_medsam", precision="fp32")
    assert isinstance(teacher, LiteMedSamTeacher)
    assert teacher.weights_sha256 == sha256_of_file(lite_medsam_checkpoint)
