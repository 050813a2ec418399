"""The edge image encoder's budget and switches; LiteMedSAM's against the published code."""

import types
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from samus_edge.evaluation.lite_medsam import load_lite_medsam_model
from samus_edge.modeling.tiny_image_encoder import LiteMedSamImageEncoder, TinyImageEncoder
from tests.conftest import AssetFrame

MAX_FLOP = 7e9
"""For one 256x256 image; a multiplication with an addition counts as two operations."""
MAX_PARAMETERS = 8e6


def test_stays_within_its_budget() -> None:
    encoder = TinyImageEncoder().eval()
    image = torch.rand(1, 1, 256, 256)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(image, image)
    assert 1e9 < counter.get_total_flops() <= MAX_FLOP
    assert sum(parameter.numel() for parameter in encoder.parameters()) <= MAX_PARAMETERS


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("hf", [True, False])
def test_embeds_with_every_switch(hf: bool, gate: bool) -> None:
    encoder = TinyImageEncoder(hf=hf, gate=gate).eval()
    names = set(encoder.state_dict())
    assert encoder.state_dict()["cnn_branch.steps.0.conv.weight"].shape[1] == 1 + hf
    assert any(name.startswith("cnn_branch.gate.") for name in names) == gate
    with torch.no_grad():
        embeddings = encoder(torch.rand(2, 1, 256, 256), torch.rand(2, 1, 256, 256))
    assert embeddings.shape == (2, 256, 32, 32)
    assert embeddings.dtype == torch.float32


def test_the_high_frequency_image_matters_only_when_it_is_on() -> None:
    image = torch.rand(1, 1, 256, 256)
    for hf in (True, False):
        encoder = TinyImageEncoder(hf=hf).eval()
        torch.nn.init.normal_(encoder.skip_cnn.weight)  # it starts at zero
        with torch.no_grad():
            one = encoder(image, torch.zeros_like(image))
            other = encoder(image, torch.rand(1, 1, 256, 256))
        assert torch.equal(one, other) != hf


def test_what_a_fresh_encoder_adds_to_tiny_vit_is_zero() -> None:
    """Neither the CNN branch nor the skips reach the embeddings before training."""
    encoder = TinyImageEncoder().eval()
    image = torch.rand(1, 1, 256, 256)
    with torch.no_grad():
        expected = encoder(image, image)
        for parameter in encoder.cnn_branch.parameters():
            parameter.normal_()
        for name, parameter in encoder.named_parameters():
            if "cross_branch.query" in name or "cross_branch.key_value" in name:
                parameter.normal_()
        for name in ("skip0", "skip1", "skip_cnn"):
            skip = encoder.get_submodule(name)
            assert isinstance(skip, torch.nn.Conv2d) and skip.bias is not None
            assert not skip.weight.any() and not skip.bias.any()
        assert torch.equal(encoder(image, image), expected)


def test_every_parameter_can_learn() -> None:
    """After the zero projections have moved, a gradient reaches each parameter."""
    encoder = TinyImageEncoder().train()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    image = torch.rand(2, 1, 256, 256)
    (encoder(image, 1 - image) * torch.randn(2, 256, 32, 32)).sum().backward()
    unreached = [
        name
        for name, parameter in encoder.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert unreached == []


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
