"""SAM's position embedding at SAMUS's grid."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.conv_step import ConvStep


class PositionEmbedding(nn.Module):
    """A position table of twice the grid's side, reduced to the grid by the position adapter.

    The result depends on weights alone, so it is constant once training is over: after
    :meth:`fold` the table holds it, and ``adapter`` is gone.

    Args:
        dim: C.
        grid_size: side of the token grid.

    Source: SAMUS (arXiv 2309.06824), section 3.2, and its reference implementation.
    """

    def __init__(self, dim: int, *, grid_size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, 2 * grid_size, 2 * grid_size, dim))
        self.adapter: ConvStep | None = ConvStep(dim, dim)

    def forward(self) -> Tensor:
        """The embedding of the grid: (1, grid_size, grid_size, C), float32."""
        if self.adapter is None:
            return self.table
        reduced = F.max_pool2d(self.table.permute(0, 3, 1, 2), 2)  # (1, C, h, w)
        adapted: Tensor = self.adapter(reduced)
        return adapted.permute(0, 2, 3, 1)

    @torch.no_grad()
    def fold(self) -> None:
        """Keep the constant in place of what it is computed from, once; later calls do nothing."""
        self.table = nn.Parameter(self().contiguous(), requires_grad=False)
        self.adapter = None
