"""SAMUS's adapter."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from samus_edge.modeling.adapter import Adapter

TOLERANCE = 1e-5
"""Float32, values around 1."""


def test_adds_zero_at_the_start() -> None:
    assert torch.equal(Adapter(8)(torch.randn(2, 5, 8)), torch.zeros(2, 5, 8))


def test_is_a_bottleneck_of_a_quarter_with_gelu(randomise: Callable[[nn.Module], None]) -> None:
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
