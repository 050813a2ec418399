"""Transformer block of SAMUS's image encoder."""

from torch import Tensor, nn

from samus_edge.modeling.adapter import ADAPTER_SCALE, Adapter
from samus_edge.modeling.conv_step import ConvStep
from samus_edge.modeling.cross_branch_attention import CrossBranchAttention
from samus_edge.modeling.mlp_block import MLPBlock
from samus_edge.modeling.vit_attention import VitAttention

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
        self.mlp = MLPBlock(dim, MLP_RATIO * dim, nn.GELU())
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
