"""Feature adapter of SAMUS."""

from torch import Tensor, nn
from torch.nn import functional as F

ADAPTER_SCALE = 0.5
"""SAMUS adds half of a block's adapter to the block's MLP."""


class Adapter(nn.Module):
    """Bottleneck ``A(x) = GELU(x E_d) E_u``, zero at the start of training.

    Args:
        dim: d, the features' dimension; the bottleneck has d / 4.
        channels_first: whether the features are maps, (B, d, H, W), instead of tokens; on maps the
            matrices are convolutions, which keep the layout of those around.

    Source: SAMUS (arXiv 2309.06824), section 3.2. ``E_u`` starts at zero, so that a pretrained
    network with fresh adapters computes what it computed without them.
    """

    def __init__(self, dim: int, *, channels_first: bool = False) -> None:
        super().__init__()
        self.channels_first = channels_first
        self.down = nn.Linear(dim, dim // 4)
        self.act = nn.GELU()
        self.up = nn.Linear(dim // 4, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d), or (B, d, H, W) maps, to the same shape; the caller adds it to its residual."""
        out: Tensor
        if self.channels_first:
            hidden = self.act(F.conv2d(x, _kernel(self.down), self.down.bias))
            out = F.conv2d(hidden, _kernel(self.up), self.up.bias)
        else:
            out = self.up(self.act(self.down(x)))
        return out


def _kernel(linear: nn.Linear) -> Tensor:
    """The weight, (out, in), as that of a 1x1 convolution."""
    return linear.weight[:, :, None, None]
