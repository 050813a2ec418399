"""SAM's two-way transformer between prompt tokens and the image."""

from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.mlp_block import MLPBlock
from samus_edge.modeling.scaled_attention import scaled_attention


class Attention(nn.Module):
    """Multi-head attention whose inner dimension may be smaller than the embedding's.

    Args:
        embedding_dim: C.
        num_heads: heads.
        downsample_rate: the inner dimension is C / downsample_rate.
    """

    def __init__(self, embedding_dim: int, num_heads: int, *, downsample_rate: int = 1) -> None:
        super().__init__()
        inner_dim = embedding_dim // downsample_rate
        if inner_dim % num_heads != 0:
            raise ValueError(
                f"embedding_dim / downsample_rate must be a multiple of num_heads, "
                f"got {embedding_dim} / {downsample_rate} and {num_heads}."
            )
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embedding_dim, inner_dim)
        self.k_proj = nn.Linear(embedding_dim, inner_dim)
        self.v_proj = nn.Linear(embedding_dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, embedding_dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from (N, Q, C) to (N or 1, K, C); (N, Q, C) out."""
        attended = scaled_attention(
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(key)),
            self._heads(self.v_proj(value)),
        )  # (N, heads, Q, d)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, inner) to (N, heads, L, d)."""
        batch, length, inner_dim = x.shape
        return x.view(batch, length, self.num_heads, inner_dim // self.num_heads).transpose(1, 2)


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
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + query_pe, k, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(k, queries + query_pe, queries))
        return queries, keys


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
        attended = self.final_attn_token_to_image(queries + tokens, keys + image_pe, keys)
        queries = self.norm_final_attn(queries + attended)
        return queries, keys
