"""Plots are SVG documents with the numbers' labels in them, the same in every run."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from samus_edge.data.case import select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.report_plots import (
    plot_dice_distribution,
    plot_dice_over_size,
    plot_groups,
    plot_robustness,
)
from samus_edge.evaluation.robustness import robustness_table, robustness_variants


@pytest.fixture
def report(fake_busi: Path, box_filler: Any) -> Any:
    """Everything on three lesions."""
    cases = select_lesions(list_cases(fake_busi))[:2]
    return evaluate(box_filler, cases, variants=robustness_variants())


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_prompts_classes_and_sizes_are_named(report: Any) -> None:
    scores = [s for s in report.scores if s.image == "as_is" and s.prompt in ("box_5%",)]
    for svg in (plot_dice_distribution(scores), plot_dice_over_size(scores)):
        assert "box_5%" in texts(svg)
    labels = texts(plot_groups(report.summaries))
    assert {"all", "benign", "medium", "large", "(3)", "box_5%", "centre_point"} <= set(labels)


def test_each_change_has_a_panel(report: Any) -> None:
    rows = robustness_table(report.scores, 0)
    labels = texts(plot_robustness(rows))
    for row in rows:
        assert row.change in labels and row.level in labels
    assert labels.count("box") == labels.count("point") + 1  # one legend; "box" is a level too


def test_a_plot_is_reproducible_and_leaves_matplotlib_as_it_was(report: Any) -> None:
    before = dict(matplotlib.rcParams)
    assert plot_groups(report.summaries) == plot_groups(report.summaries)
    assert dict(matplotlib.rcParams) == before
