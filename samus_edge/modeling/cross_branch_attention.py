"""Cross-branch attention: ViT tokens query the CNN branch."""

from torch import Tensor, nn

from samus_edge.modeling.scaled_attention import scaled_attention


class CrossBranchAttention(nn.Module):
    """Multi-head attention with ViT tokens as queries, CNN tokens as keys and values.

    Args:
        vit_dim: dimension of the ViT tokens.
        cnn_dim: dimension of the CNN tokens.
        inner_dim: total dimension of queries, keys and values.
        num_heads: heads; divides ``inner_dim``.

    Raises:
        ValueError: if ``num_heads`` does not divide ``inner_dim``.

    Source: SAMUS (arXiv 2309.06824), section 3.3, without the relative position term of equation 2,
    which its reference implementation does not have. The output projection starts at zero.
    """

    def __init__(self, *, vit_dim: int, cnn_dim: int, inner_dim: int, num_heads: int) -> None:
        super().__init__()
        if inner_dim % num_heads != 0:
            raise ValueError(
                f"inner_dim must be a multiple of num_heads, got {inner_dim} and {num_heads}."
            )
        self.num_heads = num_heads
        self.query = nn.Linear(vit_dim, inner_dim)
        self.key_value = nn.Linear(cnn_dim, 2 * inner_dim)
        self.proj = nn.Linear(inner_dim, vit_dim)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, vit_tokens: Tensor, cnn_tokens: Tensor) -> Tensor:
        """Attend.

        Args:
            vit_tokens: (B, N, vit_dim), float32.
            cnn_tokens: (B, L, cnn_dim), float32.

        Returns:
            (B, N, vit_dim), float32, to be added to the ViT tokens.
        """
        batch, num_queries, _ = vit_tokens.shape
        heads, head_dim = self.num_heads, self.query.out_features // self.num_heads
        query = self.query(vit_tokens).view(batch, num_queries, heads, head_dim)
        query = query.transpose(1, 2)  # (B, heads, N, d)
        key_value = self.key_value(cnn_tokens).view(batch, -1, 2, heads, head_dim)
        key_value = key_value.permute(2, 0, 3, 1, 4)  # (2, B, heads, L, d)
        # two axes joined and parted again: past a transposition alone, ONNX Runtime would move the
        # split ahead, and transpose each part for itself
        key_value = key_value.flatten(1, 2).view(2, batch, heads, -1, head_dim)
        key, value = key_value[0:1], key_value[1:2]  # (1, B, heads, L, d) each
        attended = scaled_attention(query, key, value)  # (1, B, heads, N, d)
        out: Tensor = self.proj(attended.transpose(2, 3).reshape(batch, num_queries, -1))
        return out
