"""Convolution with batch normalisation, foldable into one convolution."""

import torch
from torch import Tensor, nn


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
