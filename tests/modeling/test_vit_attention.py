"""Self-attention of the image encoder against Segment Anything's, windows and padding included."""

import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

from samus_edge.modeling.vit_attention import VitAttention

TOLERANCE = 1e-4
"""Float32; with these random weights values reach tens."""

DIM, HEADS, GRID = 24, 3, 6


@pytest.mark.parametrize("window_size", [None, 3, 4], ids=["global", "fitting", "padded"])
def test_attends_as_segment_anything(
    segment_anything_modeling: types.ModuleType,
    randomise: Callable[[nn.Module], None],
    window_size: int | None,
) -> None:
    encoder = segment_anything_modeling.image_encoder
    side = window_size or GRID
    theirs = encoder.Attention(DIM, num_heads=HEADS, use_rel_pos=True, input_size=(side, side))
    randomise(theirs)
    ours = VitAttention(DIM, num_heads=HEADS, grid_size=GRID, window_size=window_size)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, GRID, GRID, DIM)
    with torch.no_grad():
        windows, padded_hw = encoder.window_partition(x, side)
        expected = encoder.window_unpartition(theirs(windows), side, padded_hw, (GRID, GRID))
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=TOLERANCE)
        unfolded = ours(x)
        for _ in range(2):  # the second time does nothing
            ours.fold()
            assert torch.equal(ours(x), unfolded)
    assert ours.rel_pos_h.shape == ours.rel_pos_w.shape == (side, DIM // HEADS, side)


def test_heads_that_do_not_divide_the_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of num_heads, got 24 and 5"):
        VitAttention(DIM, num_heads=5, grid_size=GRID)
