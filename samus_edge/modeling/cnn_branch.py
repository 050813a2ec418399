"""Slim convolutional branch that sees the grey image and its high-frequency image."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from samus_edge.modeling.conv_norm import ConvNorm
from samus_edge.modeling.multi_scale_attention_gate import MultiScaleAttentionGate


class CnnBranch(nn.Module):
    """Three stride-2 convolutions, 256x256 to 32x32, followed by the attention gate.

    Args:
        channels: output channels of the three convolutions.
        hf: whether the high-frequency image is a second input channel.
        gate: whether the multi-scale attention gate follows.

    Source: the CNN branch of SAMUS (arXiv 2309.06824), section 3.3, at edge cost: strided
    convolutions with batch normalisation in place of pooling with layer normalisation.
    """

    def __init__(
        self, *, channels: Sequence[int] = (32, 64, 128), hf: bool = True, gate: bool = True
    ) -> None:
        super().__init__()
        self.hf = hf
        widths = (2 if hf else 1, *channels)
        self.steps = nn.Sequential()
        for width_in, width_out in pairwise(widths):
            self.steps.append(ConvNorm(width_in, width_out, 3, stride=2))
            self.steps.append(nn.GELU())
        self.gate: nn.Module = MultiScaleAttentionGate(channels[-1]) if gate else nn.Identity()

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Extract local features.

        Args:
            image: (B, 1, 256, 256), float32, grey in [0, 1].
            high_frequency: (B, 1, 256, 256), float32, in [0, 1]; not looked at when ``hf`` is off.

        Returns:
            (B, C, 32, 32), float32.
        """
        x = torch.cat((image, high_frequency), dim=1) if self.hf else image
        out: Tensor = self.gate(self.steps(x))
        return out
