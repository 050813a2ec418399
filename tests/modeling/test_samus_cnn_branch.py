"""The CNN branch of SAMUS: formula, and additions that start at zero."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.samus_cnn_branch import SamusCnnBranch

TOLERANCE = 1e-3
"""Float32; with these random weights values reach hundreds."""


def step(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Normalisation over channels and GELU after a convolution's sums."""
    channels_last = x.permute(0, 2, 3, 1)
    weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    normalised = F.layer_norm(channels_last, weight.shape, weight, bias, eps=1e-6)
    return F.gelu(normalised.permute(0, 3, 1, 2))


@pytest.mark.parametrize("hf", [True, False])
def test_is_four_steps_with_max_pooling_between(
    hf: bool, randomise: Callable[[nn.Module], None]
) -> None:
    branch = SamusCnnBranch(48, hf=hf, gate=False)
    randomise(branch)
    state = branch.state_dict()
    image, high_frequency = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    x = F.conv2d(image, state["stem.conv.weight"], padding=1)
    if hf:
        x = x + F.conv2d(high_frequency, state["hf_conv.weight"], padding=1)
    x = step(x, state, "stem")
    for index, channels in enumerate((128, 256, 48)):
        x = F.max_pool2d(x, kernel_size=2, stride=2)
        x = step(
            F.conv2d(x, state[f"downs.{index}.conv.weight"], padding=1), state, f"downs.{index}"
        )
        assert x.shape[1] == channels
    with torch.no_grad():
        torch.testing.assert_close(branch(image, high_frequency), x, rtol=1e-5, atol=TOLERANCE)


def test_fresh_additions_change_nothing(randomise: Callable[[nn.Module], None]) -> None:
    plain = SamusCnnBranch(16, hf=False, gate=False)
    randomise(plain)
    image, high_frequency = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    for hf, gate in ((True, False), (False, True), (True, True)):
        branch = SamusCnnBranch(16, hf=hf, gate=gate)
        branch.load_state_dict({**branch.state_dict(), **plain.state_dict()})
        for training in (True, False):
            branch.train(training)
            with torch.no_grad():
                assert torch.equal(branch(image, high_frequency), plain(image, high_frequency))


def test_fresh_additions_receive_a_gradient() -> None:
    """Zero is no fixed point: the first step already moves them."""
    branch = SamusCnnBranch(16)
    (
        branch(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)) * torch.randn(16, 1, 1)
    ).sum().backward()
    for name in ("hf_conv.weight", "gate.scale"):
        parameter = branch.get_parameter(name)
        assert not parameter.any()
        assert parameter.grad is not None and bool(parameter.grad.any())
