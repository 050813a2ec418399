"""Attention between a few tokens and the many positions of an image, with fewer multiplications.

Both functions compute what :class:`~samus_edge.modeling.two_way_transformer.Attention` computes, in
another order. Its projections of the image side cost 2 L C D multiplications each (L positions, C
channels, D inner). Here the weights are multiplied with the tokens instead, which gives one row of C
for each token and head, and the image is multiplied with these rows: L C (heads T). With T tokens and
heads T < D that is less (SAM's decoder: 8 T < 128, so up to 15 tokens), and the image keeps its layout:
no head of it is ever split off.
"""

from torch import Tensor

from samus_edge.modeling.attention import Attention


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
