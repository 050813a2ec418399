"""Convolution with batch normalisation, foldable into one convolution."""

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


def fold_conv_norms(module: nn.Module) -> None:
    """Fold every :class:`ConvNorm` inside ``module``, in place."""
    for child in module.modules():
        if isinstance(child, ConvNorm):
            child.fold()
