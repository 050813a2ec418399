"""Self-attention of SAM's image encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.relative_position import (
    decomposed_relative_bias,
    relative_offsets,
    table_by_position,
)
from samus_edge.modeling.scaled_attention import scaled_attention


class VitAttention(nn.Module):
    """Multi-head self-attention with decomposed relative positions, global or in square windows.

    Windows that reach over the edge are padded with zero tokens, which are attended to like any
    other. Queries, keys and values of a zero token are their biases: they are padded rather than
    the tokens, and only real tokens are projected.

    Which row of the position tables belongs to a query and a key never changes: after :meth:`fold`
    the tables hold the rows where they are used, and ``offsets`` is gone.

    Args:
        dim: C.
        num_heads: heads; divides ``dim``.
        grid_size: side of the token grid.
        window_size: side of the windows, tokens; None for global attention.

    Raises:
        ValueError: if ``num_heads`` does not divide ``dim``.

    Source: Segment Anything (arXiv 2304.02643); same parameter names.
    """

    offsets: Tensor | None

    def __init__(
        self, dim: int, *, num_heads: int, grid_size: int, window_size: int | None = None
    ) -> None:
        super().__init__()
        if dim % num_heads != 0:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}.")
        self.num_heads = num_heads
        self.window_size = grid_size if window_size is None else window_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        num_offsets = 2 * self.window_size - 1
        self.rel_pos_h = nn.Parameter(torch.zeros(num_offsets, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(num_offsets, dim // num_heads))
        self.register_buffer("offsets", relative_offsets(self.window_size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, H, W, C) tokens in and out."""
        batch, height, width, dim = x.shape
        side = self.window_size
        rows, columns = -(-height // side), -(-width // side)  # windows along each axis
        padding = (0, 0, 0, columns * side - width, 0, rows * side - height)
        qkv = F.linear(x, self.qkv.weight)  # (B, H, W, 3C)
        if any(padding):
            qkv = F.pad(qkv, padding)
        qkv = qkv + self.qkv.bias.to(qkv.dtype)
        qkv = qkv.view(batch, rows, side, columns, side, 3 * dim).transpose(2, 3)
        head_dim = dim // self.num_heads
        qkv = qkv.reshape(batch * rows * columns, side * side, 3, self.num_heads, head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (windows, heads, L, d) each
        bias = decomposed_relative_bias(query, *self._position_tables())
        attended = scaled_attention(query, key, value, bias)  # (windows, heads, L, d)
        attended = attended.transpose(1, 2).reshape(batch, rows, columns, side, side, dim)
        attended = attended.transpose(2, 3).reshape(batch, rows * side, columns * side, dim)
        out: Tensor = self.proj(attended[:, :height, :width])
        return out

    @torch.no_grad()
    def fold(self) -> None:
        """Write the position tables out by position, once; later calls do nothing."""
        rows, columns = self._position_tables()
        self.rel_pos_h = nn.Parameter(rows.contiguous(), requires_grad=False)
        self.rel_pos_w = nn.Parameter(columns.contiguous(), requires_grad=False)
        self.offsets = None

    def _position_tables(self) -> tuple[Tensor, Tensor]:
        """Vertical and horizontal, (side, d, side) each."""
        if self.offsets is None:
            return self.rel_pos_h, self.rel_pos_w
        return (
            table_by_position(self.rel_pos_h, self.offsets),
            table_by_position(self.rel_pos_w, self.offsets),
        )
