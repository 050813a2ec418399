"""Multi-scale attention gate on the CNN branch."""

import torch
from torch import Tensor, nn

from samus_edge.modeling.conv_norm import ConvNorm


class MultiScaleAttentionGate(nn.Module):
    """``x + s * x * gate(x)``: three receptive fields vote one gate per pixel and channel.

    The votes come from a point-wise, a 3x3 and a dilated 3x3 convolution; a 1x1 convolution merges
    them and a sigmoid makes the gate. ``s`` is a learned factor per channel that starts at zero, so
    the gate starts as the identity.

    Args:
        channels: C.

    Source: CMU-Net (arXiv 2210.13012), section 2.3. We differ: the two 3x3 convolutions are
    depthwise (the merging convolution mixes channels), and the factor ``s`` is ours.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pointwise = ConvNorm(channels, channels)
        self.ordinary = ConvNorm(channels, channels, 3, groups=channels)
        self.dilated = ConvNorm(channels, channels, 3, groups=channels, dilation=2)
        self.act = nn.ReLU()
        self.vote = nn.Conv2d(3 * channels, channels, kernel_size=1)
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, (B, C, H, W); same shape out."""
        votes = (self.pointwise(x), self.ordinary(x), self._dilated(x))
        merged = torch.cat(votes, dim=1)  # (B, 3C, H, W)
        gate = torch.sigmoid(self.vote(self.act(merged)))  # (B, C, H, W)
        return x + self.scale * (x * gate)

    def _dilated(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            out: Tensor = self.dilated(x)
            return out
        # on CPUs, the bf16 weight gradient of a dilated depthwise convolution is at times
        # uninitialised memory, seen as 1e27 with PyTorch 2.13: this one stays in float32
        with torch.autocast(x.device.type, enabled=False):
            return self._dilated(x.float())
