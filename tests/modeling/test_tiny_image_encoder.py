"""The edge image encoder: budget, shapes, switches, and what a fresh one leaves out."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from samus_edge.modeling.tiny_image_encoder import TinyImageEncoder

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
