"""The HTML report is one file that says what was found."""

import html.parser
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from samus_edge.data.case import select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.evaluation.evaluate import (
    EvaluationResult,
    EvaluationSettings,
    evaluate,
    run_evaluation,
)
from samus_edge.evaluation.html_report import (
    plot_dice_distribution,
    plot_dice_over_size,
    plot_groups,
    plot_robustness,
    render_evaluation,
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


VOID = {"meta", "img"}


class Checker(html.parser.HTMLParser):
    """Checks that tags are balanced; collects text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember what has to be closed."""
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the latest."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.texts.append(data)


@pytest.fixture
def result(fake_busi: Path, box_filler: Any) -> EvaluationResult:
    """Everything there is, on a few lesions and a normal image."""
    keys = ["benign/benign (1)", "malignant/malignant (2)", "normal/normal (1)"]
    settings = EvaluationSettings(robustness=True, pictures=True, worst_count=1)
    about = {"data": "<BUSI> & more"}
    return run_evaluation(box_filler, list_cases(fake_busi, keys), settings, about=about)


def test_the_report_is_one_file_without_network_or_script(result: EvaluationResult) -> None:
    page = render_evaluation(result.report, result.views, {"command": "samus-edge eval"})
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.links and all(link.startswith("data:image/") for link in checker.links)
    assert "<script" not in page and not re.search(r"https?://", page)
    # 3 plots and that of robustness; worst and best of two prompts
    assert sum(link.startswith("data:image/svg+xml") for link in checker.links) == 4
    assert sum(link.startswith("data:image/jpeg") for link in checker.links) == len(result.views)
    text = "\n".join(checker.texts)
    assert "<BUSI> & more" in text and "samus-edge eval" in text
    summary = result.report.summaries[0]
    assert f"{summary.dice.mean:.4f}" in text
    for heading in ("Results", "Robustness", "Images without a lesion", "Worst lesions"):
        assert heading in text
    assert "box_loose_15%" in text and "worst 1: " in text


def test_sections_without_content_are_left_out(result: EvaluationResult) -> None:
    from dataclasses import replace

    page = render_evaluation(replace(result.report, robustness=(), normals=()), (), {})
    for heading in ("<h2>Robustness", "<h2>Images without", "<h2>Worst"):
        assert heading not in page
