"""The two-way transformer against Meta's."""

import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

from samus_edge.modeling.attention import Attention
from samus_edge.modeling.two_way_transformer import TwoWayTransformer

TOLERANCE = 1e-5
"""Float32 through some layers; every layer normalisation brings values back to around 1."""


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
