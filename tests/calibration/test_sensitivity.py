"""Blocks, their sensitivities and the budget, scored by a rule instead of an encoder."""

from collections.abc import Callable, Collection

import pytest

from samus_edge.calibration.sensitivity import (
    NO_MODULE,
    BlockSensitivity,
    BudgetedChoice,
    block_of,
    choose_blocks,
    draw_sensitivity,
    measure_sensitivity,
)
from samus_edge.verification.comparison import MaskAgreement

COSTS = {"a/0": 0.1, "b/1": 3.0, "c/0": 0.2, "d/0": 0.0, "e/0": 0.4}
"""Dice points that quantising each block costs; together they add up."""


NODES = ("a/0/fc1/MatMul", "a/0/fc2/MatMul", *(f"{block}/MatMul" for block in list(COSTS)[1:]))


class ScoringRule:
    """Compares by adding up what the quantised blocks cost."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def __call__(self, nodes: Collection[str]) -> MaskAgreement:
        blocks = {block_of(node) for node in nodes}
        self.seen.append(blocks)
        cost = sum(COSTS[block] for block in blocks)
        return MaskAgreement(logit_error=cost / 10, mask_dice=1 - cost / 100, dice_drop=cost)


@pytest.fixture
def rule() -> ScoringRule:
    return ScoringRule()


@pytest.fixture
def blocks(rule: ScoringRule) -> list[BlockSensitivity]:
    return measure_sensitivity(NODES, rule)


@pytest.fixture
def choose(rule: ScoringRule, blocks: list[BlockSensitivity]) -> Callable[[float], BudgetedChoice]:
    return lambda budget: choose_blocks(blocks, rule, max_dice_drop=budget)


@pytest.mark.parametrize(
    ("node", "block"),
    [
        ("stage2/3/mlp/fc1/MatMul", "stage2/3/mlp"),
        ("stage2/3/attn/qkv/MatMul_1", "stage2/3/attn"),
        ("stage2/3/Add", "stage2/3"),
        ("stage2/3/conv/Conv", "stage2/3"),
        ("cnn_branch/gate/vote/Conv", "cnn_branch/gate"),
        ("cnn_branch/gate/vote/deep/Conv", "cnn_branch/gate"),
        ("neck/Conv", "neck"),
        ("node_Conv_7", NO_MODULE),
        ("", NO_MODULE),
    ],
)
def test_blocks_of_nodes(node: str, block: str) -> None:
    assert block_of(node) == block


def test_each_block_is_quantised_alone(blocks: list[BlockSensitivity], rule: ScoringRule) -> None:
    assert [each.block for each in blocks] == list(COSTS)
    assert rule.seen == [{block} for block in COSTS]
    assert blocks[0].nodes == ("a/0/fc1/MatMul", "a/0/fc2/MatMul")
    assert [each.agreement.dice_drop for each in blocks] == list(COSTS.values())


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (0.0, "d"),
        (0.05, "d"),
        (0.1, "da"),
        (0.35, "dac"),
        (0.75, "dace"),
        (3.6, "dace"),
        (3.8, "daceb"),
        (100.0, "daceb"),
    ],
)
def test_the_longest_row_of_blocks_within_the_budget_is_chosen(
    budget: float, expected: str, choose: Callable[[float], BudgetedChoice]
) -> None:
    choice = choose(budget)
    assert "".join(each.block[0] for each in choice.quantised) == expected
    assert "".join(each.block[0] for each in choice.kept) == "daceb"[len(expected) :]
    assert choice.agreement.dice_drop <= budget
    assert choice.agreement.dice_drop == pytest.approx(
        sum(COSTS[each.block] for each in choice.quantised)
    )
    assert set(choice.nodes) == {node for each in choice.quantised for node in each.nodes}


def test_a_generous_budget_needs_one_trial(
    choose: Callable[[float], BudgetedChoice], rule: ScoringRule
) -> None:
    rule.seen.clear()
    choose(100)
    assert rule.seen == [set(COSTS)]


def test_nothing_is_quantised_where_no_block_fits(
    choose: Callable[[float], BudgetedChoice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COSTS, "d/0", 0.3)
    choice = choose(0.01)
    assert choice.quantised == ()
    assert choice.nodes == []
    assert choice.agreement == MaskAgreement(0.0, 1.0, 0.0)


def test_no_blocks_are_no_choice(rule: ScoringRule) -> None:
    choice = choose_blocks([], rule, max_dice_drop=1)
    assert (choice.quantised, choice.kept, rule.seen) == ((), (), [])


def test_the_chart_is_a_png_and_the_same_twice(choose: Callable[[float], BudgetedChoice]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    first, again = (draw_sensitivity(choose(0.4), "a chart") for _ in range(2))
    assert first.startswith(b"\x89PNG\r\n")
    assert first == again
    assert draw_sensitivity(choose(100), "a chart") != first
