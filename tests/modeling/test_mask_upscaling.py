"""Upscaling on tokens."""

from collections.abc import Callable

import torch
from torch import nn

from samus_edge.modeling.mask_upscaling import MaskUpscaling


def test_masks_are_products_with_the_upscaled_image(
    randomise: Callable[[nn.Module], None],
) -> None:
    upscaling = MaskUpscaling(32).eval()
    randomise(upscaling)
    image, hyper = torch.randn(2, 32, 3, 5), torch.randn(2, 4, 4)
    with torch.no_grad():
        upscaled = upscaling(image)  # plain transposed convolutions
        expected = torch.einsum("nmc,nchw->nmhw", hyper, upscaled)
        outcome = upscaling.masks(image.flatten(2).transpose(1, 2), hyper, (3, 5))
    assert outcome.shape == (2, 4, 12, 20)
    torch.testing.assert_close(outcome, expected, rtol=1e-5, atol=1e-5)
