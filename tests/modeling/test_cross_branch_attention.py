"""Attention of ViT tokens to CNN tokens, adapters and the gate of the CNN branch."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from samus_edge.modeling.cross_branch_attention import (
    Adapter,
    CrossBranchAttention,
    MultiScaleAttentionGate,
)

TOLERANCE = 1e-5
"""Float32, values around 1."""


def test_a_gate_is_the_identity_at_the_start() -> None:
    gate = MultiScaleAttentionGate(4).eval()
    x = torch.randn(2, 4, 6, 5)
    with torch.no_grad():
        assert torch.equal(gate(x), x)


def test_an_open_gate_adds_the_scaled_input() -> None:
    gate = MultiScaleAttentionGate(3).eval()
    with torch.no_grad():
        gate.vote.weight.zero_()
        assert gate.vote.bias is not None
        gate.vote.bias.copy_(torch.tensor([100.0, 0.0, -100.0]))  # open, half open, closed
        gate.scale.fill_(2.0)
        x = torch.randn(1, 3, 4, 4)
        expected = x * torch.tensor([3.0, 2.0, 1.0])[:, None, None]
        torch.testing.assert_close(gate(x), expected, rtol=0, atol=TOLERANCE)


def test_votes_come_from_three_receptive_fields(randomise: Callable[[nn.Module], None]) -> None:
    gate = MultiScaleAttentionGate(4).eval()
    randomise(gate)
    x = torch.randn(1, 4, 9, 9)

    def normalised(name: str, convolved: torch.Tensor) -> torch.Tensor:
        values = {key: state[f"{name}.norm.{key}"] for key in ("running_mean", "running_var")}
        weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
        return F.batch_norm(convolved, **values, weight=weight, bias=bias)

    state = gate.state_dict()
    votes = [
        normalised("pointwise", F.conv2d(x, state["pointwise.conv.weight"])),
        normalised("ordinary", F.conv2d(x, state["ordinary.conv.weight"], padding=1, groups=4)),
        normalised(
            "dilated", F.conv2d(x, state["dilated.conv.weight"], padding=2, dilation=2, groups=4)
        ),
    ]
    merged = F.conv2d(torch.cat(votes, 1).relu(), state["vote.weight"], state["vote.bias"])
    expected = x + state["scale"] * x * merged.sigmoid()
    with torch.no_grad():
        torch.testing.assert_close(gate(x), expected, rtol=0, atol=TOLERANCE)


def test_mixed_precision_gives_finite_gradients_close_to_float32(
    randomise: Callable[[nn.Module], None],
) -> None:
    gate = MultiScaleAttentionGate(8).train()
    randomise(gate)
    x = torch.randn(2, 8, 16, 16)
    gradients = []
    for enabled in (False, True):
        gate.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gate(x).float().square().mean().backward()
        gradient = gate.dilated.conv.weight.grad
        assert gradient is not None
        gradients.append(gradient.clone())
    exact, mixed = gradients
    # bf16 keeps 8 bits; a gradient of uninitialised memory is off by orders of magnitude
    assert float((mixed - exact).abs().max()) <= 0.2 * float(exact.abs().max())


def test_adapter_adds_zero_at_the_start() -> None:
    assert torch.equal(Adapter(8)(torch.randn(2, 5, 8)), torch.zeros(2, 5, 8))


def test_an_adapter_is_a_bottleneck_of_a_quarter_with_gelu(
    randomise: Callable[[nn.Module], None],
) -> None:
    adapter = Adapter(8)
    randomise(adapter)
    x = torch.randn(3, 8)
    state = {
        name: tensor.numpy().astype(np.float64) for name, tensor in adapter.state_dict().items()
    }
    assert state["down.weight"].shape == (2, 8)
    hidden = x.numpy() @ state["down.weight"].T + state["down.bias"]
    hidden *= 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    expected = hidden @ state["up.weight"].T + state["up.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(adapter(x).numpy(), expected, rtol=0, atol=TOLERANCE)


def test_maps_are_adapted_pixel_by_pixel(randomise: Callable[[nn.Module], None]) -> None:
    tokens, maps = Adapter(8), Adapter(8, channels_first=True)
    randomise(tokens)
    maps.load_state_dict(tokens.state_dict())
    x = torch.randn(2, 8, 3, 5)
    with torch.no_grad():
        expected = tokens(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(maps(x), expected, rtol=0, atol=TOLERANCE)


def test_attention_adds_zero_at_the_start() -> None:
    attention = CrossBranchAttention(vit_dim=6, cnn_dim=4, inner_dim=8, num_heads=2)
    assert not attention(torch.randn(2, 5, 6), torch.randn(2, 7, 4)).any()


def test_attention_is_torchs_multi_head_attention(randomise: Callable[[nn.Module], None]) -> None:
    attention = CrossBranchAttention(vit_dim=6, cnn_dim=4, inner_dim=8, num_heads=2)
    randomise(attention)
    vit, cnn = torch.randn(2, 5, 6), torch.randn(2, 7, 4)
    state = attention.state_dict()
    query = vit @ state["query.weight"].T + state["query.bias"]
    key_value = cnn @ state["key_value.weight"].T + state["key_value.bias"]
    expected, _ = F.multi_head_attention_forward(
        query.transpose(0, 1),
        key_value[..., :8].transpose(0, 1),
        key_value[..., 8:].transpose(0, 1),
        embed_dim_to_check=8,
        num_heads=2,
        in_proj_weight=torch.eye(8).repeat(3, 1),  # the projections are done above
        in_proj_bias=torch.zeros(24),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=torch.eye(8),
        out_proj_bias=torch.zeros(8),
    )
    expected = expected.transpose(0, 1) @ state["proj.weight"].T + state["proj.bias"]
    with torch.no_grad():
        torch.testing.assert_close(attention(vit, cnn), expected, rtol=0, atol=TOLERANCE)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inner_dim must be a multiple of num_heads, got 8 and 3"):
        CrossBranchAttention(vit_dim=6, cnn_dim=4, inner_dim=8, num_heads=3)
