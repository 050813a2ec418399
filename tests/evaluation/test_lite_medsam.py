"""LiteMedSAM, which results are compared with."""

import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from samus_edge.errors import WeightsError
from samus_edge.evaluation.lite_medsam import LiteMedSam, load_lite_medsam_model, padded_input
from tests.conftest import AssetFrame


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
    predictor = LiteMedSam(lite_medsam_checkpoint)
    embedding = predictor.encode(frame.image)
    got = predictor.predict(embedding, boxes=boxes).masks[:, 0]
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
                image_embeddings=embedding[0],
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
            load_lite_medsam_model(path)
