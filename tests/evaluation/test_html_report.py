"""The HTML report is one file that says what was found."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib

from samus_edge.data.dataset import list_cases
from samus_edge.evaluation.evaluate import run_evaluation
from samus_edge.evaluation.html_report import (
    plot_dice_distribution,
    plot_dice_over_size,
    plot_groups,
    plot_robustness,
    render_evaluation,
)
from tests.reporting.pages import checked_page


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_the_report_says_and_draws_what_was_found(fake_busi: Path, box_filler: Any) -> None:
    keys = ["benign/benign (1)", "malignant/malignant (2)", "normal/normal (1)"]
    report = run_evaluation(
        box_filler,
        list_cases(fake_busi, keys),
        robustness=True,
        worst_count=1,
        about={"data": "<BUSI> & more"},
    )
    before = dict(matplotlib.rcParams)
    document = render_evaluation(report, {"command": "samus-edge eval"})
    assert dict(matplotlib.rcParams) == before
    page = checked_page(document)
    # 3 plots and that of robustness; worst and best of two prompts
    assert sum(image.startswith("data:image/svg+xml") for image in page.images) == 4
    assert sum(image.startswith("data:image/jpeg") for image in page.images) == len(report.views)
    summary, row = report.summaries[0], report.robustness[-1]
    for text in (
        *("<BUSI> & more", "samus-edge eval", f"{summary.dice.mean:.4f}"),
        *("Results", "Robustness", "Images without a lesion", "Worst lesions"),
        *("box_loose_15%", "worst 1: ", f"{row.dice_change:+.4f}", row.level),
    ):
        assert text in page.text

    document = render_evaluation(replace(report, robustness=(), normals=(), views=()), {})
    for heading in ("<h2>Robustness", "<h2>Images without", "<h2>Worst"):
        assert heading not in document

    # Plots name prompts, classes, sizes and changes.
    scores = [s for s in report.scores if (s.image, s.prompt) == ("as_is", "box_5%")]
    for svg in (plot_dice_distribution(scores), plot_dice_over_size(scores)):
        assert "box_5%" in texts(svg)
    groups = plot_groups(report.summaries)
    assert groups == plot_groups(report.summaries)  # the same file each time
    assert {"all", "benign", "malignant", "(1)", "box_5%", "centre_point"} <= set(texts(groups))
    labels = texts(plot_robustness(report.robustness))
    for row in report.robustness:
        assert row.change in labels and row.level in labels
    assert labels.count("box") == labels.count("point") + 1  # one legend; "box" is a level too
