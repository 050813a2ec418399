"""SAM's multi-head attention."""

from torch import Tensor, nn

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
