"""Shared layers against their formulas, PyTorch and Segment Anything."""

import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from samus_edge.modeling import samus_hf_tiny
from samus_edge.modeling.layers import ConvNorm, LayerNorm2d, Mlp, scaled_attention
from samus_edge.modeling.model_parts import fold_constants

TOLERANCE = 1e-5
"""Float32, values around 1 to 10."""


def test_layer_normalisation_is_the_formula() -> None:
    norm = LayerNorm2d(6, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 3.0, 6))
        norm.bias.copy_(torch.linspace(-1.0, 1.0, 6))
    x = torch.randn(2, 6, 3, 5) * 4 + 10
    values = x.numpy().astype(np.float64)
    mean = values.mean(axis=1, keepdims=True)
    variance = ((values - mean) ** 2).mean(axis=1, keepdims=True)
    expected = (values - mean) / np.sqrt(variance + 1e-3)
    expected *= np.linspace(0.5, 3.0, 6)[:, None, None]
    expected += np.linspace(-1.0, 1.0, 6)[:, None, None]
    with torch.no_grad():
        np.testing.assert_allclose(norm(x).numpy(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("arguments", "output_hw"),
    [
        ({}, (9, 8)),
        ({"kernel_size": 3}, (9, 8)),
        ({"kernel_size": 3, "stride": 2}, (5, 4)),
        ({"kernel_size": 3, "groups": 4}, (9, 8)),
        ({"kernel_size": 3, "groups": 4, "dilation": 2}, (9, 8)),
    ],
    ids=str,
)
def test_is_convolution_then_normalisation_before_and_after_folding(
    arguments: dict[str, int], output_hw: tuple[int, int], randomise: Callable[[nn.Module], None]
) -> None:
    module = ConvNorm(4, 4, **arguments).eval()
    randomise(module)
    norm = module.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    x = torch.randn(2, 4, 9, 8)
    with torch.no_grad():
        convolved = module.conv(x)
        shifted = convolved - norm.running_mean[:, None, None]
        deviation = (norm.running_var + norm.eps).sqrt()[:, None, None]
        expected = shifted / deviation * norm.weight[:, None, None] + norm.bias[:, None, None]
        assert expected.shape == (2, 4, *output_hw)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=TOLERANCE)
        module.fold()
        assert isinstance(module.norm, nn.Identity)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=TOLERANCE)


def test_folding_twice_is_folding_once(randomise: Callable[[nn.Module], None]) -> None:
    module = ConvNorm(2, 3, 3).eval()
    randomise(module)
    module.fold()
    weight, bias = module.conv.weight.clone(), module.conv.bias
    module.fold()
    assert torch.equal(module.conv.weight, weight)
    assert module.conv.bias is bias


def test_folding_the_whole_encoder_keeps_its_embeddings() -> None:
    encoder = samus_hf_tiny().image_encoder.eval()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.7, 1.3)
                module.bias.normal_(std=0.1)
        image, high_frequency = torch.rand(1, 1, 256, 256), torch.rand(1, 1, 256, 256)
        expected = encoder(image, high_frequency)
        fold_constants(encoder)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
        folded = encoder(image, high_frequency)
    # the last layer normalisation makes the embeddings of unit variance
    torch.testing.assert_close(folded, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU])
def test_the_mlp_computes_segment_anythings(
    segment_anything_modeling: types.ModuleType, act: type[nn.Module]
) -> None:
    reference = segment_anything_modeling.common.MLPBlock(6, 10, act)
    ours = Mlp(6, 10, act(), names=("lin1", "lin2"))
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(3, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x))


@pytest.mark.parametrize("bias_shape", [None, (3, 5, 7), (2, 3, 5, 7), (1, 1, 7)])
def test_attention_agrees_with_torch(bias_shape: tuple[int, ...] | None) -> None:
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    bias = None if bias_shape is None else torch.randn(bias_shape)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    attended = scaled_attention(query, key, value, bias)
    torch.testing.assert_close(attended, expected, rtol=0, atol=TOLERANCE)


def test_one_image_serves_several_prompts_by_broadcasting() -> None:
    query, key, value = torch.randn(4, 2, 3, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    expected = scaled_attention(query, key.expand(4, -1, -1, -1), value.expand(4, -1, -1, -1))
    torch.testing.assert_close(
        scaled_attention(query, key, value), expected, rtol=0, atol=TOLERANCE
    )
