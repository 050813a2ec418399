"""Layers of several parts of the model: normalised convolutions, an MLP, attention."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.Module):
    """Layer normalisation of each pixel over its channels, as in SAM.

    Args:
        num_channels: C.
        eps: added to the variance.

    Source: `LayerNorm2d` of Segment Anything. Computed on a channels-last view, so that the
    exported graph holds one LayerNormalization node instead of a chain of reductions.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, (B, C, H, W), over C; same shape out."""
        channels_last = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        shape = (channels_last.shape[-1],)
        normalised = F.layer_norm(channels_last, shape, self.weight, self.bias, self.eps)
        return normalised.permute(0, 3, 1, 2)  # (B, C, H, W)


def conv_layer_norm(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Bias-free convolution that keeps the size, then layer normalisation, as in SAM's neck."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, LayerNorm2d(out_channels))


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


class ConvNorm(nn.Module):
    """Bias-free convolution followed by batch normalisation.

    After :meth:`fold` the normalisation is part of the convolution (which then has a bias), the
    module computes the same function in evaluation mode, and ``norm`` is the identity.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the square kernel; padding keeps the size at stride 1.
        stride: stride in both directions.
        groups: convolution groups; ``out_channels`` for a depthwise convolution.
        dilation: dilation in both directions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.norm(self.conv(x))
        return out

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the running statistics into the convolution, once; later calls do nothing."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.conv.weight.mul_(scale[:, None, None, None])
        self.conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
        self.norm = nn.Identity()


class Mlp(nn.Sequential):
    """Two linear layers with an activation between them: (..., C) to (..., C).

    Args:
        dim: C.
        hidden_dim: features between the layers.
        act: the activation.
        names: names of the two layers in checkpoints; SAM's are "lin1" and "lin2".
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        act: nn.Module,
        *,
        names: tuple[str, str] = ("fc1", "fc2"),
    ) -> None:
        first, second = names
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers[first] = nn.Linear(dim, hidden_dim)
        layers["act"] = act
        layers[second] = nn.Linear(hidden_dim, dim)
        super().__init__(layers)


def scaled_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
) -> Tensor:
    """``softmax(query key^T / sqrt(d) + bias) value``.

    Written out rather than called from torch, so that every PyTorch version exports the same four
    nodes; at 256 tokens the fused kernels are no faster on a CPU.

    Args:
        query: (B, heads, Q, d), float32.
        key: (B, heads, K, d), float32.
        value: (B, heads, K, d), float32.
        bias: broadcastable to (B, heads, Q, K), float32, or None.

    Returns:
        (B, heads, Q, d), float32.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # (B, heads, Q, K)
    if bias is not None:
        scores = scores + bias
    out: Tensor = scores.softmax(dim=-1) @ value  # (B, heads, Q, d)
    return out
