"""The effect of 8 bits on each block of the image encoder, and the blocks that a budget allows."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from samus_edge.reporting.figure import new_figure, png_bytes
from samus_edge.verification.comparison import MaskAgreement

NO_MODULE = "(no module)"
"""Block of the nodes whose names tell no module."""


@dataclass(frozen=True)
class BlockSensitivity:
    """What quantising one block alone does.

    Attributes:
        block: such as "stage2/3/mlp".
        nodes: names of its nodes that the recipe quantises.
        agreement: agreement with the float32 encoder, everything else being float32.
    """

    block: str
    nodes: tuple[str, ...]
    agreement: MaskAgreement


@dataclass(frozen=True)
class BudgetedChoice:
    """The blocks that are quantised together.

    Attributes:
        blocks: all blocks, in the graph's order.
        quantised: the blocks on 8 bits, least sensitive first.
        kept: the blocks that stay in higher precision, least sensitive first.
        agreement: agreement of the encoder so quantised; perfect where nothing is quantised.
    """

    blocks: tuple[BlockSensitivity, ...]
    quantised: tuple[BlockSensitivity, ...]
    kept: tuple[BlockSensitivity, ...]
    agreement: MaskAgreement

    @property
    def nodes(self) -> list[str]:
        """Names of all nodes that are quantised."""
        return [node for block in self.quantised for node in block.nodes]


def block_of(node: str) -> str:
    """The block that a node belongs to: two modules deep, three inside a numbered block.

    `stage2/3/mlp/fc1/MatMul` is in `stage2/3/mlp`, `cnn_branch/gate/vote/Conv` in
    `cnn_branch/gate`, `neck/Conv` in `neck`, and `node_Conv_7`, which names no module, in
    `NO_MODULE`.
    """
    *modules, _ = node.split("/")
    depth = 3 if len(modules) > 3 and modules[1].isdigit() else 2
    return "/".join(modules[:depth]) or NO_MODULE


Compare = Callable[[Collection[str]], MaskAgreement]
"""Quantises these nodes of the image encoder, and compares its masks with the float32 encoder's."""


def measure_sensitivity(
    candidates: Iterable[str],
    compare: Compare,
    *,
    on_block: Callable[[str], None] = lambda block: None,
) -> list[BlockSensitivity]:
    """Quantise one block at a time and compare masks.

    Args:
        candidates: names of the nodes that may be quantised.
        compare: the agreement of an encoder in which some nodes are quantised.
        on_block: called with each block as its turn comes.

    Returns:
        The blocks in the order of their first nodes.
    """
    blocks: dict[str, list[str]] = {}
    for node in candidates:
        blocks.setdefault(block_of(node), []).append(node)
    measured = []
    for block, nodes in blocks.items():
        on_block(block)
        measured.append(BlockSensitivity(block, tuple(nodes), compare(nodes)))
    return measured


def choose_blocks(
    blocks: Sequence[BlockSensitivity],
    compare: Compare,
    *,
    max_dice_drop: float,
    on_trial: Callable[[int], None] = lambda count: None,
) -> BudgetedChoice:
    """Quantise as many blocks as the budget allows, the least sensitive first.

    Blocks are ordered by the logit error that each causes alone, which tells them apart more finely
    than masks do. The largest number that stays within the budget is found by bisection.

    Args:
        blocks: the blocks' sensitivities.
        compare: as for `measure_sensitivity`.
        max_dice_drop: the budget, Dice points (0..100).
        on_trial: called with the number of blocks as each trial starts.
    """
    ordered = sorted(blocks, key=lambda each: each.agreement.logit_error)
    trials: dict[int, MaskAgreement] = {0: MaskAgreement(0.0, 1.0, 0.0)}

    def fits(count: int) -> bool:
        if count not in trials:
            on_trial(count)
            trials[count] = compare([node for block in ordered[:count] for node in block.nodes])
        return trials[count].dice_drop <= max_dice_drop

    low, high = 0, len(ordered)
    if fits(high):
        low = high
    while low + 1 < high and low != high:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return BudgetedChoice(
        tuple(blocks), tuple(ordered[:low]), tuple(ordered[low:]), agreement=trials[low]
    )


QUANTISED_COLOUR, KEPT_COLOUR = "#1f77b4", "#d62728"


def draw_sensitivity(choice: BudgetedChoice, title: str) -> bytes:
    """Draw logit error and Dice change of every block that is quantised alone, as bars.

    Args:
        choice: the blocks, and which of them were quantised in the end.
        title: title of the chart.

    Returns:
        A PNG file.
    """
    blocks = choice.blocks
    kept = {block.block for block in choice.kept}
    colours = [KEPT_COLOUR if each.block in kept else QUANTISED_COLOUR for each in blocks]
    names = [f"{each.block} ({len(each.nodes)})" for each in blocks]
    figure = new_figure(11, 1.6 + 0.24 * len(blocks))
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
        axes.grid(visible=False, axis="y")
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        "each block quantised alone (number of nodes); blue: on 8 bits in the end, "
        "red: kept in higher precision",
        fontsize=9,
    )
    return png_bytes(figure)
