"""The printed account of a weight transfer."""

from samus_edge.weights.transfer import WeightAccount


def test_summary_counts_and_names() -> None:
    account = WeightAccount(
        source="somewhere",
        taken=("a.x.weight", "a.y.weight"),
        adapted={"a.z.weight": "stretched, (1,) to (2,)"},
        new=(
            *("b.gate.scale", "b.gate.bias", "b.skip.weight"),
            *("b.blocks.2.adapter.up.bias", "b.blocks.11.adapter.up.bias"),
        ),
        left_over=("head.weight",),
    )
    assert account.summary().splitlines() == [
        "weights from somewhere: 2 tensors taken, 1 adapted, 5 new, 1 left over",
        "  adapted  a.z.weight: stretched, (1,) to (2,)",
        "  new      b.gate: 2 tensors",
        "  new      b.skip: 1 tensors",
        "  new      b.blocks.*.adapter: 2 tensors",
        "  left over  head.weight",
    ]
