"""Layer normalisation over channels against its formula."""

import numpy as np
import torch

from samus_edge.modeling.layer_norm_2d import LayerNorm2d

TOLERANCE = 1e-5
"""Float32, values around 1 to 10."""


def test_is_the_formula() -> None:
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
