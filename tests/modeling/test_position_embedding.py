"""The position embedding: formula, and folding into a constant."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from samus_edge.modeling.position_embedding import PositionEmbedding

TOLERANCE = 1e-5
"""Float32, values around 1."""


def test_is_max_pooling_convolution_normalisation_and_gelu(
    randomise: Callable[[nn.Module], None],
) -> None:
    position = PositionEmbedding(8, grid_size=3)
    randomise(position)
    state = position.state_dict()
    pooled = state["table"].view(3, 2, 3, 2, 8).amax(dim=(1, 3))  # (h, w, C)
    convolved = F.conv2d(pooled.permute(2, 0, 1)[None], state["adapter.conv.weight"], padding=1)
    centred = convolved - convolved.mean(dim=1, keepdim=True)
    normalised = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    weight, bias = state["adapter.norm.weight"], state["adapter.norm.bias"]
    scaled = normalised * weight[:, None, None] + bias[:, None, None]
    expected = 0.5 * scaled * (1 + torch.erf(scaled / 2**0.5))  # GELU
    with torch.no_grad():
        embedding = position()
    assert embedding.shape == (1, 3, 3, 8)
    torch.testing.assert_close(
        embedding, expected.permute(0, 2, 3, 1), rtol=TOLERANCE, atol=TOLERANCE
    )


def test_folded_it_is_the_same_constant(randomise: Callable[[nn.Module], None]) -> None:
    position = PositionEmbedding(4, grid_size=2)
    randomise(position)
    with torch.no_grad():
        expected = position().clone()
        for _ in range(2):  # the second time does nothing
            position.fold()
            assert torch.equal(position(), expected)
    assert set(position.state_dict()) == {"table"}
