"""The two-way transformer against Meta's."""

import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

from samus_edge.modeling.two_way_transformer import (
    Attention,
    TwoWayTransformer,
    attend_from_image,
    attend_from_tokens,
)

ATTENTION_TOLERANCE = 2e-5
"""Float32 in another order of multiplication; these random weights give values around 10."""

TOLERANCE = 1e-5
"""Float32 through some layers; every layer normalisation brings values back to around 1."""


@pytest.fixture
def attention(randomise: Callable[[nn.Module], None]) -> Attention:
    """4 heads of 4 channels on tokens of 32; no parameter is left constant."""
    module = Attention(32, 4, downsample_rate=2).eval()
    randomise(module)
    return module.requires_grad_(False)


@pytest.mark.parametrize("num_tokens", [1, 7, 40], ids=["one", "a few", "more than pays"])
def test_attention_to_and_from_an_image_is_plain_attention(
    attention: Attention, num_tokens: int
) -> None:
    tokens, image, image_values = (torch.randn(3, length, 32) for length in (num_tokens, 50, 50))
    for computed, arguments in (
        (attend_from_tokens, (tokens, image, image_values)),
        (attend_from_image, (image, tokens, tokens.flip(0))),
    ):
        outcome, expected = computed(attention, *arguments), attention(*arguments)
        torch.testing.assert_close(
            outcome, expected, rtol=ATTENTION_TOLERANCE, atol=ATTENTION_TOLERANCE
        )


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


def test_computes_what_metas_does(
    segment_anything_modeling: types.ModuleType, randomise: Callable[[nn.Module], None]
) -> None:
    settings = {"depth": 2, "embedding_dim": 16, "num_heads": 2, "mlp_dim": 24}
    reference = segment_anything_modeling.TwoWayTransformer(**settings).eval()
    randomise(reference)
    ours = TwoWayTransformer(**settings).eval()
    ours.load_state_dict(reference.state_dict())
    image, image_pe, tokens = (
        torch.randn(3, 16, 4, 5),
        torch.randn(1, 16, 4, 5),
        torch.randn(3, 6, 16),
    )
    with torch.no_grad():
        expected = reference(image, image_pe.expand(3, -1, -1, -1), tokens)
        computed = ours(
            image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2), tokens
        )
    for found, wanted in zip(computed, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 16 / 4 and 3"):
        Attention(16, 3, downsample_rate=4)
