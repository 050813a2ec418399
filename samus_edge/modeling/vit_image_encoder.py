"""The published image encoder: SAM's ViT beside SAMUS's CNN branch."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.errors import BadArgumentError
from samus_edge.modeling.cross_branch_attention import (
    ADAPTER_SCALE,
    Adapter,
    CrossBranchAttention,
    MultiScaleAttentionGate,
)
from samus_edge.modeling.layers import ConvStep, Mlp, conv_layer_norm, scaled_attention
from samus_edge.modeling.prompt_encoder import PositionEmbedding


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
        BadArgumentError: if ``num_heads`` does not divide ``dim``.

    Source: Segment Anything (arXiv 2304.02643); same parameter names.
    """

    offsets: Tensor | None

    def __init__(
        self, dim: int, *, num_heads: int, grid_size: int, window_size: int | None = None
    ) -> None:
        super().__init__()
        if dim % num_heads != 0:
            raise BadArgumentError(
                f"dim must be a multiple of num_heads, got {dim} and {num_heads}."
            )
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


NORM_EPS = 1e-6
MLP_RATIO = 4


class VitBlock(nn.Module):
    """SAM's block; one with global attention also meets the CNN branch.

    A global block adds cross-branch attention to the normalised tokens before self-attention, half
    of an adapter to the MLP, and passes the CNN features through one more convolution step.

    Args:
        dim: C of the tokens and of the CNN features.
        num_heads: heads of self-attention and of cross-branch attention.
        grid_size: side of the token grid.
        window_size: side of the attention windows, tokens; None for a global block.

    Source: SAMUS (arXiv 2309.06824), section 3, and its reference implementation.
    """

    def __init__(
        self, dim: int, *, num_heads: int, grid_size: int, window_size: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = VitAttention(
            dim, num_heads=num_heads, grid_size=grid_size, window_size=window_size
        )
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim, nn.GELU(), names=("lin1", "lin2"))
        self.adapter: Adapter | None = None
        self.cross_branch: CrossBranchAttention | None = None
        self.cnn_refine: ConvStep | None = None
        if window_size is None:
            self.adapter = Adapter(dim)
            self.cross_branch = CrossBranchAttention(
                vit_dim=dim, cnn_dim=dim, inner_dim=dim, num_heads=num_heads
            )
            self.cnn_refine = ConvStep(dim, dim)

    def forward(self, x: Tensor, cnn: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            x: (B, H, W, C), float32, tokens.
            cnn: (B, C, H, W), float32, features of the CNN branch.

        Returns:
            Tokens and CNN features for the next block, same shapes; a block with windows leaves the
            CNN features as they are.
        """
        normalised = self.norm1(x)
        if self.cross_branch is not None:
            cnn_tokens = cnn.flatten(2).transpose(1, 2)  # (B, HW, C)
            attended = self.cross_branch(normalised.flatten(1, 2), cnn_tokens)  # (B, HW, C)
            normalised = normalised + attended.view_as(normalised)
        if self.cnn_refine is not None:
            cnn = self.cnn_refine(cnn)
        x = x + self.attn(normalised)
        normalised = self.norm2(x)
        residual = self.mlp(normalised)
        if self.adapter is not None:
            residual = residual + ADAPTER_SCALE * self.adapter(normalised)
        return x + residual, cnn


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


PATCH_SIZE = 16
PATCH_STRIDE = 8  # overlapping patches: twice as many tokens per side as SAM's own stride of 16
CNN_SCALE = 0.5
"""The encoder's output is the neck of the ViT's tokens plus half of the CNN features."""


class VitImageEncoder(nn.Module):
    """Grey image and high-frequency image to embeddings at an eighth of the resolution.

    Args:
        image_size: side of the input, pixels; a multiple of 8.
        embed_dim: dimension of the tokens and of the CNN features.
        depth: transformer blocks.
        num_heads: attention heads.
        window_size: side of the attention windows, tokens.
        global_blocks: indices of the blocks with global attention, which meet the CNN branch.
        out_chans: channels of the embeddings; SAM's decoder takes 256.
        hf: whether the CNN branch sees the high-frequency image.
        gate: whether the CNN branch ends in a multi-scale attention gate.

    Raises:
        BadArgumentError: if ``image_size`` is no multiple of 8, or a global block does not exist.

    Source: SAMUS (arXiv 2309.06824), section 3, and its reference implementation. We differ: the
    input has one channel, with the three channels' kernels summed (see :mod:`samus_edge.weights`),
    and ``hf`` and ``gate`` are ours.
    """

    def __init__(
        self,
        *,
        image_size: int = 256,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        window_size: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        out_chans: int = 256,
        hf: bool = True,
        gate: bool = True,
    ) -> None:
        super().__init__()
        if image_size <= 0 or image_size % PATCH_STRIDE != 0:
            raise BadArgumentError(
                f"image_size must be a multiple of {PATCH_STRIDE}, got {image_size}."
            )
        unknown = sorted(set(global_blocks) - set(range(depth)))
        if unknown:
            raise BadArgumentError(f"global_blocks must lie in 0..{depth - 1}, got {unknown}.")
        grid_size = image_size // PATCH_STRIDE
        self.cnn_branch = SamusCnnBranch(embed_dim, hf=hf, gate=gate)
        self.patch_embed = nn.Conv2d(1, embed_dim, kernel_size=PATCH_SIZE, stride=PATCH_STRIDE)
        self.input_adapter = Adapter(embed_dim)
        self.position = PositionEmbedding(embed_dim, grid_size=grid_size)
        self.blocks = nn.ModuleList(
            VitBlock(
                embed_dim,
                num_heads=num_heads,
                grid_size=grid_size,
                window_size=None if index in global_blocks else window_size,
            )
            for index in range(depth)
        )
        self.neck = nn.Sequential(
            *conv_layer_norm(embed_dim, out_chans, 1), *conv_layer_norm(out_chans, out_chans, 3)
        )

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Encode.

        Args:
            image: (B, 1, S, S), float32, grey in [0, 1]; S is ``image_size``.
            high_frequency: (B, 1, S, S), float32, in [0, 1].

        Returns:
            image_embeddings, (B, out_chans, S / 8, S / 8), float32.
        """
        cnn = self.cnn_branch(image, high_frequency)  # (B, C, h, w)
        x = self._embed_patches(image)  # (B, h, w, C)
        x = x + self.input_adapter(x)
        x = x + self.position()
        for block in self.blocks:
            x, cnn = block(x, cnn)
        x = x.permute(0, 3, 1, 2) + CNN_SCALE * cnn  # (B, C, h, w)
        out: Tensor = self.neck(x)
        return out

    def _embed_patches(self, image: Tensor) -> Tensor:
        """(B, 1, S, S) to (B, h, w, C); enlarged by 8 pixels, S / 8 patches of 16 fit exactly."""
        size = image.shape[-1] + PATCH_SIZE - PATCH_STRIDE
        enlarged = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
        patches: Tensor = self.patch_embed(enlarged)
        return patches.permute(0, 2, 3, 1)
