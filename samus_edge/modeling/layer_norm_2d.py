"""Layer normalisation over the channels of a feature map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.Module):
    """Layer normalisation of each pixel over its channels, as in SAM.

    Args:
        num_channels: C.
        eps: added to the variance.

    Source: `LayerNorm2d` of Segment Anything. Computed on a channels-last view, so that the
    exported graph holds one LayerNormalization node instead of a chain of reductions.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, (B, C, H, W), over C; same shape out."""
        channels_last = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        shape = (channels_last.shape[-1],)
        normalised = F.layer_norm(channels_last, shape, self.weight, self.bias, self.eps)
        return normalised.permute(0, 3, 1, 2)  # (B, C, H, W)
