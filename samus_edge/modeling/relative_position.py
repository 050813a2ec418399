"""Decomposed relative positions of SAM's image encoder."""

import torch
from torch import Tensor
from torch.nn import functional as F


def relative_offsets(side: int) -> Tensor:
    """Row of an offset table for every pair of positions along one axis.

    Args:
        side: positions along the axis.

    Returns:
        (side * side,), int64: query - key + side - 1, query by query.
    """
    position = torch.arange(side)
    return (position[:, None] - position[None, :] + side - 1).flatten()


def table_by_position(table: Tensor, offsets: Tensor) -> Tensor:
    """An offset table written out for every pair of positions along its axis.

    Args:
        table: (2 * side - 1, d), float32.
        offsets: from :func:`relative_offsets`.

    Returns:
        (side, d, side), float32: by position of the query, then by position of the key.
    """
    side = (table.shape[0] + 1) // 2
    return table.index_select(0, offsets).view(side, side, -1).transpose(1, 2)


def decomposed_relative_bias(query: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What relative positions add to attention scores: a term for rows and a term for columns.

    The term of an axis is the product of the query with the table's row for the offset along it.

    Args:
        query: (B, heads, side * side, d), float32, not scaled.
        rows: (side, d, side), float32, from :func:`table_by_position` for vertical offsets.
        columns: (side, d, side), float32, the same for horizontal offsets.

    Returns:
        (B, heads, side * side, side * side), float32: by query, then by key.

    Source: MViTv2 (arXiv 2112.01526), section 4.1, as Segment Anything uses it.
    """
    batch, heads, length, dim = query.shape
    side = rows.shape[0]
    grid = query.view(batch, heads, side, side, dim)  # (B, heads, y, x, d)
    bias_h = grid @ rows  # (B, heads, y, x, y of key)
    bias_w = grid.transpose(2, 3) @ columns  # (B, heads, x, y, x of key)
    bias_h = bias_h.reshape(batch, heads, length, side, 1)
    bias_w = bias_w.transpose(2, 3).reshape(batch, heads, length, 1, side)
    return (bias_h + bias_w).view(batch, heads, length, length)


def resized_table(table: Tensor, num_offsets: int) -> Tensor:
    """A table for another grid: (L, d) to (num_offsets, d), interpolated linearly.

    Source: Segment Anything and SAMUS's reference implementation, which resize the same way (half
    offsets aligned).
    """
    resized = F.interpolate(
        table.T.unsqueeze(0), size=num_offsets, mode="linear", align_corners=False
    )  # (1, d, num_offsets)
    return resized[0].T.contiguous()
