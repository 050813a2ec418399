"""LiteMedSAM's image encoder against the published code, with random and with published weights."""

import types
from pathlib import Path

import torch

from samus_edge.modeling.lite_medsam_image_encoder import LiteMedSamImageEncoder
from samus_edge.training.teachers import load_lite_medsam_model
from tests.conftest import AssetFrame

TOLERANCE = 1e-4
"""Float32 through up to twelve blocks, values around 1."""


def test_encoder_computes_what_lite_medsams_does_on_a_real_frame(
    lite_medsam_checkpoint: Path,
    lite_medsam_tiny_vit: types.ModuleType,
    asset_frames: list[AssetFrame],
) -> None:
    reference = lite_medsam_tiny_vit.TinyViT(
        img_size=256,
        in_chans=3,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
        layer_lr_decay=0.8,
    )
    prefix = "image_encoder."
    weights = torch.load(lite_medsam_checkpoint, weights_only=True)
    reference.load_state_dict(
        {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    )
    model = load_lite_medsam_model(lite_medsam_checkpoint)
    frames = torch.from_numpy(asset_frames[0].image)[None]
    image = model.input_scaling(frames)  # (1, 1, 256, 256)
    normalised = (image - image.min()) / (image.max() - image.min())
    with torch.no_grad():
        expected = reference.eval()(normalised.repeat(1, 3, 1, 1))
        got = model.image_encoder(image, torch.zeros_like(image))
    assert got.shape == (1, 256, 64, 64)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def test_gain_and_offset_of_an_image_change_nothing() -> None:
    encoder = LiteMedSamImageEncoder(embed_dim=8).eval()
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        plain = encoder(image, image)
        scaled = encoder(torch.stack((0.5 * image[0] + 0.2, 0.1 * image[1])), image)
    assert plain.shape == (2, 8, 8, 8)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=TOLERANCE)


def test_a_constant_image_is_embedded_as_black() -> None:
    encoder = LiteMedSamImageEncoder(embed_dim=8).eval()
    image = torch.tensor([0.0, 0.7]).view(2, 1, 1, 1).expand(2, 1, 32, 32)
    with torch.no_grad():
        black, grey = encoder(image, image)
    assert torch.isfinite(black).all()
    assert torch.equal(black, grey)
