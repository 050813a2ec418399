"""A chart of what each block suffers from 8 bits."""

from collections.abc import Sequence
from io import BytesIO

from samus_edge.calibration.sensitivity import BlockSensitivity, BudgetedChoice

QUANTISED_COLOUR, KEPT_COLOUR = "#1f77b4", "#d62728"


def draw_sensitivity(
    blocks: Sequence[BlockSensitivity], choice: BudgetedChoice, title: str
) -> bytes:
    """Draw bars per block, in the graph's order: logit error and Dice change when it is quantised alone.

    Args:
        blocks: measured, in the graph's order.
        choice: which of them were quantised in the end.
        title: above the chart.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    kept = {block.block for block in choice.kept}
    colours = [KEPT_COLOUR if each.block in kept else QUANTISED_COLOUR for each in blocks]
    names = [f"{each.block} ({len(each.nodes)})" for each in blocks]
    figure = Figure(figsize=(11, 1.6 + 0.24 * len(blocks)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = range(len(blocks))
    left.barh(places, [each.agreement.logit_error for each in blocks], color=colours)
    left.set_yticks(places, names, fontsize=8)
    left.set_ylim(len(blocks) - 0.4, -0.6)  # the first block on top
    left.set_xlabel("mean absolute logit error")
    right.barh(places, [each.agreement.dice_drop for each in blocks], color=colours)
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel("Dice drop, points")
    right.locator_params(axis="x", nbins=5)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        "each block quantised alone (number of nodes); blue: on 8 bits in the end, "
        "red: kept in higher precision",
        fontsize=9,
    )
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return content.getvalue()
