"""Attention between tokens and the image, in the order that is cheap."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from samus_edge.modeling.attention import Attention
from samus_edge.modeling.token_image_attention import attend_from_image, attend_from_tokens

TOLERANCE = 2e-5


@pytest.fixture
def attention(randomise: Callable[[nn.Module], None]) -> Attention:
    """4 heads of 4 channels on tokens of 32; no parameter is left constant."""
    module = Attention(32, 4, downsample_rate=2).eval()
    randomise(module)
    return module.requires_grad_(False)


@pytest.mark.parametrize("num_tokens", [1, 7, 40], ids=["one", "a few", "more than pays"])
def test_from_tokens_to_the_image_as_plain_attention(attention: Attention, num_tokens: int) -> None:
    query, key, value = (torch.randn(3, length, 32) for length in (num_tokens, 50, 50))
    expected = attention(query, key, value)
    outcome = attend_from_tokens(attention, query, key, value)
    torch.testing.assert_close(outcome, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("num_tokens", [1, 7, 40], ids=["one", "a few", "more than pays"])
def test_from_the_image_to_tokens_as_plain_attention(attention: Attention, num_tokens: int) -> None:
    query, key, value = (torch.randn(3, length, 32) for length in (50, num_tokens, num_tokens))
    expected = attention(query, key, value)
    outcome = attend_from_image(attention, query, key, value)
    torch.testing.assert_close(outcome, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_keys_bias_has_no_effect_and_all_other_parameters_have_one(
    attention: Attention,
) -> None:
    query, key, value = (torch.randn(1, length, 32) for length in (5, 20, 20))
    before = attend_from_tokens(attention, query, key, value)
    for name, parameter in attention.named_parameters():
        kept = parameter.clone()
        parameter.mul_(1.5).add_(0.1)
        changes = not torch.equal(attend_from_tokens(attention, query, key, value), before)
        assert changes == (name != "k_proj.bias"), name
        parameter.copy_(kept)


def test_gradients_reach_every_parameter_that_has_an_effect(attention: Attention) -> None:
    attention.requires_grad_(True)
    tokens, image = torch.randn(1, 5, 32), torch.randn(1, 20, 32)
    loss = attend_from_image(attention, image, tokens, tokens).square().sum()
    gradients = torch.autograd.grad(loss, list(attention.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)
