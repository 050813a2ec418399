"""The published image encoder: SAM's ViT beside SAMUS's CNN branch."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.adapter import Adapter
from samus_edge.modeling.layer_norm_2d import LayerNorm2d
from samus_edge.modeling.position_embedding import PositionEmbedding
from samus_edge.modeling.samus_cnn_branch import SamusCnnBranch
from samus_edge.modeling.vit_block import VitBlock

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
        ValueError: if ``image_size`` is no multiple of 8, or a global block does not exist.

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
            raise ValueError(f"image_size must be a multiple of {PATCH_STRIDE}, got {image_size}.")
        unknown = sorted(set(global_blocks) - set(range(depth)))
        if unknown:
            raise ValueError(f"global_blocks must lie in 0..{depth - 1}, got {unknown}.")
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
            nn.Conv2d(embed_dim, out_chans, kernel_size=1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_chans),
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
