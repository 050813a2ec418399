"""TinyViT's blocks.

Source: TinyViT (arXiv 2207.10666) in the variant of MobileSAM and LiteMedSAM. We differ: a
relative position bias kept as a (heads, window, window) table of absolute offsets, and places for
SAMUS's adapters and cross-branch attention.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.cross_branch_attention import (
    ADAPTER_SCALE,
    Adapter,
    CrossBranchAttention,
)
from samus_edge.modeling.layers import ConvNorm, Mlp, scaled_attention


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, HW, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def run_blocks(blocks: nn.ModuleList, x: Tensor, cnn_tokens: Tensor | None = None) -> Tensor:
    """Run the blocks of a stage on (B, C, H, W), as tokens from the first to the last."""
    grid_hw = (x.shape[2], x.shape[3])
    tokens = to_tokens(x)
    for block in blocks:
        tokens = block(tokens, grid_hw, cnn_tokens)
    return tokens.view(tokens.shape[0], *grid_hw, tokens.shape[2]).permute(0, 3, 1, 2)


MLP_RATIO = 4


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise 3x3, project.

    Args:
        dim: channels in and out.
        expand_ratio: hidden channels per input channel.
    """

    def __init__(self, dim: int, expand_ratio: int = 4) -> None:
        super().__init__()
        hidden = dim * expand_ratio
        self.expand = ConvNorm(dim, hidden)
        self.depthwise = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.project = ConvNorm(hidden, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        residual = self.act(self.depthwise(self.act(self.expand(x))))
        out: Tensor = self.act(x + self.project(residual))
        return out


class PatchMerging(nn.Module):
    """Change of width and, at stride 2, of resolution between two stages.

    Args:
        dim: channels in.
        out_dim: channels out.
        stride: 2 halves the resolution, 1 keeps it.
    """

    def __init__(self, dim: int, out_dim: int, *, stride: int) -> None:
        super().__init__()
        self.expand = ConvNorm(dim, out_dim)
        self.depthwise = ConvNorm(out_dim, out_dim, 3, stride=stride, groups=out_dim)
        self.project = ConvNorm(out_dim, out_dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.project(self.act(self.depthwise(self.act(self.expand(x)))))
        return out


class WindowAttention(nn.Module):
    """Self-attention inside square windows, with a learned bias per offset.

    Args:
        dim: C.
        num_heads: heads; divides ``dim``.
        window_size: side of the window, tokens.
    """

    offsets: Tensor

    def __init__(self, dim: int, *, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.bias_table = nn.Parameter(torch.zeros(num_heads, window_size, window_size))
        position = torch.arange(window_size)
        offsets = (position[:, None] - position[None, :]).abs().flatten()  # (w * w,)
        self.register_buffer("offsets", offsets, persistent=False)

    def position_bias(self) -> Tensor:
        """The bias of every pair of tokens: (heads, w*w, w*w), from the table of |dy|, |dx|."""
        side, heads = self.window_size, self.num_heads
        rows = self.bias_table.index_select(1, self.offsets)  # (heads, y1 y2, dx)
        pairs = rows.index_select(2, self.offsets).view(heads, side, side, side, side)
        return pairs.transpose(2, 3).reshape(heads, side * side, side * side)  # y1 x1, y2 x2

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the windows of a grid: (B, H, W, C) tokens in and out.

        H and W are multiples of the window. Windows and heads part in one transposition, and join
        in another.
        """
        batch, height, width, dim = x.shape
        side, heads = self.window_size, self.num_heads
        rows, columns = height // side, width // side  # of windows
        # TinyViT stores queries, keys and values head by head: (heads, 3, d)
        qkv = self.qkv(x).view(batch, rows, side, columns, side, heads, 3, dim // heads)
        qkv = qkv.permute(6, 0, 1, 3, 5, 2, 4, 7)  # (3, B, rows, columns, heads, w, w, d)
        qkv = qkv.reshape(3, batch * rows * columns, heads, side * side, dim // heads)
        query, key, value = qkv[0:1], qkv[1:2], qkv[2:3]  # (1, windows, heads, L, d) each
        attended = scaled_attention(query, key, value, self.position_bias())
        attended = attended.view(batch, rows, columns, heads, side, side, dim // heads)
        attended = attended.permute(0, 1, 4, 2, 5, 3, 6)  # (B, rows, w, columns, w, heads, d)
        out: Tensor = self.proj(attended.reshape(batch, height, width, dim))
        return out


class TinyViTBlock(nn.Module):
    """Window attention, depthwise 3x3 convolution and MLP, with places for SAMUS's additions.

    Where the window does not divide the grid, as in the original, the tokens are padded with zeros.
    These are normalised and attended to like any token, so the norm's bias is what the others see
    of them.

    Args:
        dim: C.
        num_heads: attention heads.
        window_size: side of the attention window, tokens; divides the grid where `cross_branch` is.
        adapter: whether half of an adapter is added to the MLP.
        cross_branch: attention to the CNN branch, added to the normalised tokens before
            self-attention.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        window_size: int,
        adapter: bool = False,
        cross_branch: CrossBranchAttention | None = None,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim)
        self.cross_branch = cross_branch
        self.attn = WindowAttention(dim, num_heads=num_heads, window_size=window_size)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, MLP_RATIO * dim, nn.GELU())
        self.adapter = Adapter(dim) if adapter else None

    def forward(
        self, tokens: Tensor, grid_hw: tuple[int, int], cnn_tokens: Tensor | None = None
    ) -> Tensor:
        """Run the block.

        Args:
            tokens: (B, HW, C), float32.
            grid_hw: (H, W).
            cnn_tokens: (B, L, cnn_dim), float32; only looked at with cross-branch attention.

        Returns:
            (B, HW, C), float32.
        """
        # rows and columns apart: ONNX Runtime then moves channels while it changes layouts for the
        # convolution, and does not join sums with normalisations in an operator that is slower
        batch, _, dim = tokens.shape
        tokens = tokens.view(batch, *grid_hw, dim)  # (B, H, W, C)
        height, width = grid_hw
        missing_rows, missing_columns = -height % self.window_size, -width % self.window_size
        is_padded = missing_rows > 0 or missing_columns > 0
        padding = (0, 0, 0, missing_columns, 0, missing_rows)
        normalised = self.norm1(F.pad(tokens, padding) if is_padded else tokens)
        if self.cross_branch is not None:
            attended = self.cross_branch(normalised.flatten(1, 2), cnn_tokens)  # (B, HW, C)
            normalised = normalised + attended.view(batch, *grid_hw, dim)
        attended = self.attn(normalised)
        tokens = tokens + (attended[:, :height, :width] if is_padded else attended)
        x = self.local_conv(tokens.permute(0, 3, 1, 2))  # (B, C, H, W)
        tokens = x.permute(0, 2, 3, 1)
        normalised = self.norm2(tokens)
        residual = self.mlp(normalised)
        if self.adapter is not None:
            residual = residual + ADAPTER_SCALE * self.adapter(normalised)
        out: Tensor = (tokens + residual).flatten(1, 2)
        return out
