"""SAM's two-way transformer between prompt tokens and the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.attention import Attention
from samus_edge.modeling.mlp_block import MLPBlock
from samus_edge.modeling.token_image_attention import attend_from_image, attend_from_tokens


class TwoWayAttentionBlock(nn.Module):
    """Self-attention of tokens, tokens to image, MLP on tokens, image to tokens.

    Args:
        embedding_dim: C.
        num_heads: heads of every attention.
        mlp_dim: hidden dimension of the MLP.
        skip_first_layer_pe: the first block's self-attention replaces the tokens and sees no prompt
            encoding.
    """

    def __init__(
        self, embedding_dim: int, num_heads: int, mlp_dim: int, *, skip_first_layer_pe: bool
    ) -> None:
        super().__init__()
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, downsample_rate=2)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, F.relu)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, downsample_rate=2)

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update tokens (N, T, C) and image tokens (N, hw, C); ``key_pe`` is (1, hw, C)."""
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)

        k = keys + key_pe
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        queries = self.norm2(queries + attend_from_tokens(to_image, queries + query_pe, k, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = keys + attend_from_image(to_tokens, k, queries + query_pe, queries)
        return queries, self._norm_image(keys)

    def _norm_image(self, keys: Tensor) -> Tensor:
        """norm4, of four axes: of three, ONNX Runtime would join it with the sum before it, in an
        operator that takes four times as long as both."""
        normed: Tensor = self.norm4(keys.unsqueeze(1))
        return normed.squeeze(1)


class TwoWayTransformer(nn.Module):
    """Decoder transformer of SAM.

    Args:
        depth: blocks.
        embedding_dim: C.
        num_heads: heads of every attention.
        mlp_dim: hidden dimension of the blocks' MLP.

    Source: Segment Anything (arXiv 2304.02643), appendix A; same parameter names.
    """

    def __init__(self, *, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(embedding_dim, num_heads, mlp_dim, skip_first_layer_pe=index == 0)
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, downsample_rate=2)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    @torch.no_grad()
    def fold(self) -> None:
        """Set the biases that have no effect to zero, in place; see `attend_from_tokens`."""
        to_image = [layer.cross_attn_token_to_image for layer in self.layers]
        for attention in (*to_image, self.final_attn_token_to_image):
            assert isinstance(attention, Attention)
            attention.k_proj.bias.zero_()

    def forward(
        self, image_tokens: Tensor, image_pe: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the blocks.

        Args:
            image_tokens: (N, hw, C), float32.
            image_pe: (1, hw, C), float32, positional encoding of the image tokens.
            tokens: (N, T, C), float32, output tokens followed by prompt tokens.

        Returns:
            tokens (N, T, C) and image tokens (N, hw, C), float32.
        """
        queries, keys = tokens, image_tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, image_pe)
        attended = attend_from_tokens(
            self.final_attn_token_to_image, queries + tokens, keys + image_pe, keys
        )
        queries = self.norm_final_attn(queries + attended)
        return queries, keys
