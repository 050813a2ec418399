"""SAMUS's CNN branch, with the high-frequency image and the attention gate as additions."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.conv_step import ConvStep
from samus_edge.modeling.multi_scale_attention_gate import MultiScaleAttentionGate

CHANNELS = (64, 128, 256)


class SamusCnnBranch(nn.Module):
    """Convolution to 64 channels, then three max-pool and convolution steps to the ViT's width.

    Both additions start at zero, so that a fresh one changes nothing: the high-frequency image
    enters through a convolution of its own beside the first one, the gate has a zero scale.

    Args:
        dim: channels of the output.
        hf: whether the high-frequency image enters.
        gate: whether the multi-scale attention gate follows.

    Source: SAMUS (arXiv 2309.06824), section 3.3. We differ: the reference implementation repeats
    the grey image to three channels; one channel whose kernel is the sum of the three gives the
    same features. Where ``hf`` and ``gate`` enter is ours.
    """

    def __init__(self, dim: int, *, hf: bool = True, gate: bool = True) -> None:
        super().__init__()
        self.stem = ConvStep(1, CHANNELS[0])
        self.hf_conv: nn.Conv2d | None = None
        if hf:
            self.hf_conv = nn.Conv2d(1, CHANNELS[0], kernel_size=3, padding=1, bias=False)
            nn.init.zeros_(self.hf_conv.weight)
        self.downs = nn.ModuleList(
            ConvStep(width_in, width_out) for width_in, width_out in pairwise((*CHANNELS, dim))
        )
        self.gate: nn.Module = MultiScaleAttentionGate(dim) if gate else nn.Identity()

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Extract local features.

        Args:
            image: (B, 1, H, W), float32, grey in [0, 1].
            high_frequency: (B, 1, H, W), float32, in [0, 1]; not looked at when ``hf`` is off.

        Returns:
            (B, C, H / 8, W / 8), float32.
        """
        x = self.stem.conv(image)
        if self.hf_conv is not None:
            x = x + self.hf_conv(high_frequency)
        x = self.stem.act(self.stem.norm(x))  # (B, 64, H, W)
        for down in self.downs:
            x = down(F.max_pool2d(x, 2))
        out: Tensor = self.gate(x)
        return out
