"""Blocks of the image encoder: Segment Anything's, and what a global one adds."""

import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

from samus_edge.modeling.vit_block import VitBlock

TOLERANCE = 1e-3
"""Float32; with these random weights values reach hundreds."""

DIM, HEADS, GRID = 16, 2, 6


@pytest.mark.parametrize("window_size", [None, 4], ids=["global", "windows"])
def test_a_fresh_block_computes_segment_anythings(
    segment_anything_modeling: types.ModuleType,
    randomise: Callable[[nn.Module], None],
    window_size: int | None,
) -> None:
    """Adapter and cross-branch attention add nothing before they are trained."""
    theirs = segment_anything_modeling.image_encoder.Block(
        DIM,
        HEADS,
        norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-6),
        use_rel_pos=True,
        window_size=window_size or 0,
        input_size=(GRID, GRID),
    )
    randomise(theirs)
    ours = VitBlock(DIM, num_heads=HEADS, grid_size=GRID, window_size=window_size)
    ours.load_state_dict({**ours.state_dict(), **theirs.state_dict()})
    x, cnn = torch.randn(2, GRID, GRID, DIM), torch.randn(2, DIM, GRID, GRID)
    with torch.no_grad():
        tokens, refined = ours(x, cnn)
        torch.testing.assert_close(tokens, theirs(x), rtol=1e-5, atol=TOLERANCE)
    assert torch.equal(refined, cnn) == (window_size is not None)


def test_only_global_blocks_carry_samus_parts() -> None:
    plain = VitBlock(DIM, num_heads=HEADS, grid_size=GRID, window_size=3)
    names = {name.split(".")[0] for name in plain.state_dict()}
    assert names == {"norm1", "attn", "norm2", "mlp"}
    whole = VitBlock(DIM, num_heads=HEADS, grid_size=GRID)
    names = {name.split(".")[0] for name in whole.state_dict()} - names
    assert names == {"adapter", "cross_branch", "cnn_refine"}
