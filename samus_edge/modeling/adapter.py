"""Feature adapter of SAMUS."""

from torch import Tensor, nn

ADAPTER_SCALE = 0.5
"""SAMUS adds half of a block's adapter to the block's MLP."""


class Adapter(nn.Module):
    """Bottleneck ``A(x) = GELU(x E_d) E_u``, zero at the start of training.

    Args:
        dim: d, the features' dimension; the bottleneck has d / 4.

    Source: SAMUS (arXiv 2309.06824), section 3.2. ``E_u`` starts at zero, so that a pretrained
    network with fresh adapters computes what it computed without them.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, dim // 4)
        self.act = nn.GELU()
        self.up = nn.Linear(dim // 4, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., d); the caller adds the result to its residual."""
        out: Tensor = self.up(self.act(self.down(x)))
        return out
