"""Blocks, their sensitivities and the budget, with encoders that are scored by a rule."""

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from samus_edge.calibration.quantisation import CPU_INT8, quantisable_nodes
from samus_edge.calibration.sensitivity import (
    NO_MODULE,
    BlockSensitivity,
    BudgetedChoice,
    block_of,
    choose_blocks,
    draw_sensitivity,
    measure_sensitivity,
)
from samus_edge.verification.comparison import MaskAgreement, MaskComparison

COSTS = {"a/0": 0.1, "b/1": 3.0, "c/0": 0.2, "d/0": 0.0, "e/0": 0.4}
"""Dice points that quantising each block costs; together they add up."""


class ScoringRule:
    """Compares by adding up what the quantised blocks cost."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def compare(self, image_encoder: ModelProto) -> MaskAgreement:
        blocks = {
            block_of(node.name)
            for node in image_encoder.graph.node
            if node.op_type == "MatMul" and node.input[0].endswith("/dequantised")
        }
        self.seen.append(blocks)
        cost = sum(COSTS[block] for block in blocks)
        return MaskAgreement(logit_error=cost / 10, mask_dice=1 - cost / 100, dice_drop=cost)


@pytest.fixture
def model() -> ModelProto:
    """A chain of products, two in block a/0 and one in each other block."""
    names = ["a/0/fc1/MatMul", "a/0/fc2/MatMul"]
    names += [f"{block}/MatMul" for block in ("b/1", "c/0", "d/0", "e/0")]
    tensors = ["x", *(f"t{index}" for index in range(len(names)))]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [earlier, "w"], [later], name=name)
            for name, earlier, later in zip(names, tensors[:-1], tensors[1:], strict=True)
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info(tensors[-1], TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.fixture
def rule() -> ScoringRule:
    return ScoringRule()


@pytest.fixture
def blocks(model: ModelProto, rule: ScoringRule) -> list[BlockSensitivity]:
    candidates = quantisable_nodes(model, CPU_INT8)
    ranges = dict.fromkeys(candidates.values(), (-1.0, 1.0))
    return measure_sensitivity(model, candidates, ranges, CPU_INT8, cast(MaskComparison, rule))


@pytest.fixture
def choose(
    model: ModelProto, rule: ScoringRule, blocks: list[BlockSensitivity]
) -> Callable[[float], BudgetedChoice]:
    ranges = dict.fromkeys(quantisable_nodes(model, CPU_INT8).values(), (-1.0, 1.0))

    def choice(budget: float) -> BudgetedChoice:
        comparison = cast(MaskComparison, rule)  # it has the one method that is used
        return choose_blocks(model, blocks, ranges, CPU_INT8, comparison, max_dice_drop=budget)

    return choice


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


def test_no_blocks_are_no_choice(model: ModelProto, rule: ScoringRule) -> None:
    comparison = cast(MaskComparison, rule)
    choice = choose_blocks(model, [], {}, CPU_INT8, comparison, max_dice_drop=1)
    assert (choice.quantised, choice.kept, rule.seen) == ((), (), [])


def test_the_chart_is_a_png_and_the_same_twice(
    blocks: list[BlockSensitivity], choose: Callable[[float], BudgetedChoice]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    first, again = (draw_sensitivity(blocks, choose(0.4), "a chart") for _ in range(2))
    assert first.startswith(b"\x89PNG\r\n")
    assert first == again
    assert draw_sensitivity(blocks, choose(100), "a chart") != first
