"""The gate starts as the identity, and then is x + s x gate(x)."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from samus_edge.modeling.multi_scale_attention_gate import MultiScaleAttentionGate

TOLERANCE = 1e-5
"""Float32, values around 1."""


def test_is_the_identity_at_the_start() -> None:
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
