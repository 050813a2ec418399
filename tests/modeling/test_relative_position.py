"""Relative positions against Segment Anything's."""

import types

import pytest
import torch

from samus_edge.modeling.relative_position import (
    decomposed_relative_bias,
    relative_offsets,
    resized_table,
    table_by_position,
)

TOLERANCE = 1e-5
"""Float32 sums of a few products of unit variance."""


def test_bias_is_segment_anythings(segment_anything_modeling: types.ModuleType) -> None:
    side, dim, batch, heads = 5, 8, 2, 3
    query = torch.randn(batch, heads, side * side, dim)
    table_h, table_w = torch.randn(2 * side - 1, dim), torch.randn(2 * side - 1, dim)
    scores = torch.zeros(batch * heads, side * side, side * side)
    expected = segment_anything_modeling.image_encoder.add_decomposed_rel_pos(
        scores, query.flatten(0, 1), table_h, table_w, (side, side), (side, side)
    )
    offsets = relative_offsets(side)
    rows, columns = table_by_position(table_h, offsets), table_by_position(table_w, offsets)
    assert rows.shape == columns.shape == (side, dim, side)
    bias = decomposed_relative_bias(query, rows, columns)
    torch.testing.assert_close(bias.flatten(0, 1), expected, rtol=0, atol=TOLERANCE)


def test_offsets_count_from_the_farthest_key_after_the_query() -> None:
    assert relative_offsets(3).view(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


@pytest.mark.parametrize("side", [8, 3])
def test_a_table_is_resized_as_segment_anything_does(
    segment_anything_modeling: types.ModuleType, side: int
) -> None:
    table = torch.randn(2 * 5 - 1, 4)
    theirs = segment_anything_modeling.image_encoder.get_rel_pos(side, side, table)
    resized = resized_table(table, 2 * side - 1)
    ours = resized[relative_offsets(side)].view(side, side, 4)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
