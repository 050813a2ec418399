"""SAM's two-way transformer between prompt tokens and the image.

Attention between a few tokens and the many positions of an image is computed with fewer
multiplications than in `Attention`. Its projections of the image side cost 2 L C D multiplications
each (L positions, C channels, D inner). `attend_from_tokens` and `attend_from_image` multiply the
weights with the tokens instead, which gives one row of C for each token and head, and the image
with these rows: L C (heads T). With T tokens and heads T < D that is less (SAM's decoder: 8 T <
128, so up to 15 tokens), and the image keeps its layout: no head of it is ever split off.
"""

import torch
from torch import Tensor, nn

from samus_edge.errors import BadArgumentError
from samus_edge.modeling.layers import Mlp, scaled_attention


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
            raise BadArgumentError(
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
            self.split_heads(self.q_proj(query)),
            self.split_heads(self.k_proj(key)),
            self.split_heads(self.v_proj(value)),
        )  # (N, heads, Q, d)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out

    def split_heads(self, x: Tensor) -> Tensor:
        """(N, L, inner) to (N, heads, L, d)."""
        batch, length, inner_dim = x.shape
        return x.view(batch, length, self.num_heads, inner_dim // self.num_heads).transpose(1, 2)


def attend_from_tokens(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from tokens to the image.

    Args:
        attention: its parameters.
        query: (N, T, C), tokens.
        key: (N, L, C), image.
        value: (N, L, C), image.

    Returns:
        (N, T, C).
    """
    num_prompts, num_tokens, dim = query.shape
    heads = attention.num_heads
    head_queries = attention.split_heads(attention.q_proj(query))  # (N, heads, T, d)
    head_queries = head_queries * head_queries.shape[-1] ** -0.5
    # the bias of the keys adds the same to a whole row of scores, which the softmax takes out again
    rows = head_queries @ attention.k_proj.weight.view(heads, -1, dim)  # (N, heads, T, C)
    scores = rows.reshape(num_prompts, heads * num_tokens, dim) @ key.transpose(1, 2)
    mixed = scores.softmax(dim=-1) @ value  # (N, heads T, C)
    mixed = mixed.reshape(num_prompts, heads, num_tokens, dim).transpose(2, 3)  # (N, heads, C, T)
    attended = attention.v_proj.weight.view(heads, -1, dim) @ mixed  # (N, heads, d, T)
    attended = attended.permute(0, 3, 1, 2).flatten(2)  # (N, T, heads d)
    # rows of a softmax sum to 1, so the bias of the values comes out as it is
    out: Tensor = attention.out_proj(attended + attention.v_proj.bias)
    return out


def attend_from_image(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from the image to tokens.

    Args:
        attention: its parameters.
        query: (N, L, C), image.
        key: (N, T, C), tokens.
        value: (N, T, C), tokens.

    Returns:
        (N, L, C).
    """
    num_prompts, num_tokens, dim = key.shape
    length = query.shape[1]
    heads = attention.num_heads
    head_keys = attention.split_heads(attention.k_proj(key))  # (N, heads, T, d)
    head_keys = head_keys * head_keys.shape[-1] ** -0.5
    rows = head_keys @ attention.q_proj.weight.view(heads, -1, dim)  # (N, heads, T, C)
    bias = head_keys @ attention.q_proj.bias.view(heads, -1, 1)  # (N, heads, T, 1)
    scores = query @ rows.reshape(num_prompts, heads * num_tokens, dim).transpose(1, 2)
    scores = scores + bias.reshape(num_prompts, 1, heads * num_tokens)
    weights = scores.view(num_prompts, length, heads, num_tokens).softmax(dim=-1)
    head_values = attention.split_heads(attention.v_proj(value))  # (N, heads, T, d)
    mixed = head_values @ attention.out_proj.weight.t().view(heads, -1, dim)  # (N, heads, T, C)
    # the weights of each head sum to 1, so each head brings its share of the bias
    mixed = mixed + attention.out_proj.bias / heads
    out: Tensor = weights.flatten(2) @ mixed.reshape(num_prompts, heads * num_tokens, dim)
    return out


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
        self.mlp = Mlp(embedding_dim, mlp_dim, nn.ReLU(), names=("lin1", "lin2"))
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
