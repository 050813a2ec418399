"""Additions to a ViT: attention to the CNN branch, adapters, and a gate on that branch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.errors import BadArgumentError
from samus_edge.modeling.layers import ConvNorm, scaled_attention


class MultiScaleAttentionGate(nn.Module):
    """``x + s * x * gate(x)``: three receptive fields vote one gate per pixel and channel.

    The votes come from a point-wise, a 3x3 and a dilated 3x3 convolution; a 1x1 convolution merges
    them and a sigmoid makes the gate. ``s`` is a learned factor per channel that starts at zero, so
    the gate starts as the identity.

    Args:
        channels: C.

    Source: CMU-Net (arXiv 2210.13012), section 2.3. We differ: the two 3x3 convolutions are
    depthwise (the merging convolution mixes channels), and the factor ``s`` is ours.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pointwise = ConvNorm(channels, channels)
        self.ordinary = ConvNorm(channels, channels, 3, groups=channels)
        self.dilated = ConvNorm(channels, channels, 3, groups=channels, dilation=2)
        self.act = nn.ReLU()
        self.vote = nn.Conv2d(3 * channels, channels, kernel_size=1)
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, (B, C, H, W); same shape out."""
        votes = (self.pointwise(x), self.ordinary(x), self._dilated(x))
        merged = torch.cat(votes, dim=1)  # (B, 3C, H, W)
        gate = torch.sigmoid(self.vote(self.act(merged)))  # (B, C, H, W)
        return x + self.scale * (x * gate)

    def _dilated(self, x: Tensor) -> Tensor:
        precision = self.dilated.conv.weight.dtype
        if x.dtype == precision and not torch.is_autocast_enabled(x.device.type):
            out: Tensor = self.dilated(x)
            return out
        # on CPUs, the bf16 weight gradient of a dilated depthwise convolution is at times
        # uninitialised memory, seen as 1e27 with PyTorch 2.13: this one stays in float32
        with torch.autocast(x.device.type, enabled=False):
            out = self.dilated(x.to(precision))
        return out.to(x.dtype)


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
        """Map (..., d), or (B, d, H, W) maps, to the same shape; the caller adds it."""
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


class CrossBranchAttention(nn.Module):
    """Multi-head attention with ViT tokens as queries, CNN tokens as keys and values.

    Args:
        vit_dim: dimension of the ViT tokens.
        cnn_dim: dimension of the CNN tokens.
        inner_dim: total dimension of queries, keys and values.
        num_heads: heads; divides ``inner_dim``.

    Raises:
        BadArgumentError: if ``num_heads`` does not divide ``inner_dim``.

    Source: SAMUS (arXiv 2309.06824), section 3.3, without the relative position term of equation 2,
    which its reference implementation does not have. The output projection starts at zero.
    """

    def __init__(self, *, vit_dim: int, cnn_dim: int, inner_dim: int, num_heads: int) -> None:
        super().__init__()
        if inner_dim % num_heads != 0:
            raise BadArgumentError(
                f"inner_dim must be a multiple of num_heads, got {inner_dim} and {num_heads}."
            )
        self.num_heads = num_heads
        self.query = nn.Linear(vit_dim, inner_dim)
        self.key_value = nn.Linear(cnn_dim, 2 * inner_dim)
        self.proj = nn.Linear(inner_dim, vit_dim)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, vit_tokens: Tensor, cnn_tokens: Tensor) -> Tensor:
        """Attend.

        Args:
            vit_tokens: (B, N, vit_dim), float32.
            cnn_tokens: (B, L, cnn_dim), float32.

        Returns:
            (B, N, vit_dim), float32, to be added to the ViT tokens.
        """
        batch, num_queries, _ = vit_tokens.shape
        heads, head_dim = self.num_heads, self.query.out_features // self.num_heads
        query = self.query(vit_tokens).view(batch, num_queries, heads, head_dim)
        query = query.transpose(1, 2)  # (B, heads, N, d)
        key_value = self.key_value(cnn_tokens).view(batch, -1, 2, heads, head_dim)
        key_value = key_value.permute(2, 0, 3, 1, 4)  # (2, B, heads, L, d)
        # two axes joined and parted again: past a transposition alone, ONNX Runtime would move the
        # split ahead, and transpose each part for itself
        key_value = key_value.flatten(1, 2).view(2, batch, heads, -1, head_dim)
        key, value = key_value[0:1], key_value[1:2]  # (1, B, heads, L, d) each
        attended = scaled_attention(query, key, value)  # (1, B, heads, N, d)
        out: Tensor = self.proj(attended.transpose(2, 3).reshape(batch, num_queries, -1))
        return out
