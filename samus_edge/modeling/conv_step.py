"""The convolution step of SAMUS's CNN branch."""

from torch import Tensor, nn

from samus_edge.modeling.layer_norm_2d import LayerNorm2d


class ConvStep(nn.Module):
    """Bias-free 3x3 convolution, layer normalisation over channels, GELU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.

    Source: SAMUS (arXiv 2309.06824), section 3.3, and its reference implementation.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm = LayerNorm2d(out_channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out
