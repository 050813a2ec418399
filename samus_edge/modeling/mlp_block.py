"""The two-layer perceptron inside transformer blocks."""

from collections.abc import Callable

from torch import Tensor, nn


class MLPBlock(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        embedding_dim: C, dimension in and out.
        mlp_dim: hidden dimension.
        act: the activation; SAM's decoder has ReLU, its image encoder GELU.

    Source: `MLPBlock` of Segment Anything; same parameter names.
    """

    def __init__(self, embedding_dim: int, mlp_dim: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        out: Tensor = self.lin2(self.act(self.lin1(x)))
        return out
