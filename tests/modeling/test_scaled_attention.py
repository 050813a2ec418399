"""Attention against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from samus_edge.modeling.scaled_attention import scaled_attention

TOLERANCE = 1e-6
"""Float32 in another order of summation, values around 1."""


@pytest.mark.parametrize("bias_shape", [None, (3, 5, 7), (2, 3, 5, 7), (1, 1, 7)])
def test_agrees_with_torch(bias_shape: tuple[int, ...] | None) -> None:
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
