"""Attention of ViT tokens to CNN tokens."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from samus_edge.modeling.cross_branch_attention import CrossBranchAttention

TOLERANCE = 1e-5
"""Float32, values around 1."""


def test_adds_zero_at_the_start() -> None:
    attention = CrossBranchAttention(vit_dim=6, cnn_dim=4, inner_dim=8, num_heads=2)
    assert not attention(torch.randn(2, 5, 6), torch.randn(2, 7, 4)).any()


def test_is_torchs_multi_head_attention(randomise: Callable[[nn.Module], None]) -> None:
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
