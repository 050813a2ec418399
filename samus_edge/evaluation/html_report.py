"""An evaluation as one HTML file: no network, no script, pictures and plots inside."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from samus_edge.evaluation.evaluate import NSD_TOLERANCE_PX
from samus_edge.evaluation.html_page import Cell, fact_list, html_page, html_table, jpeg_uri
from samus_edge.evaluation.instance_score import AS_IS
from samus_edge.evaluation.lesion_size import LARGE_FROM_PX, MEDIUM_FROM_PX
from samus_edge.evaluation.prompt_protocol import STANDARD_PROTOCOLS
from samus_edge.evaluation.report import EvaluationReport
from samus_edge.evaluation.report_plots import (
    plot_dice_distribution,
    plot_dice_over_size,
    plot_groups,
    plot_robustness,
)
from samus_edge.evaluation.robustness import LOW_DICE
from samus_edge.evaluation.summary import ALL_CLASSES, ALL_SIZES, Summary
from samus_edge.evaluation.worst_cases import CaseView

__all__ = ["render_html"]


def render_html(
    report: EvaluationReport, views: Sequence[CaseView], details: Mapping[str, str]
) -> str:
    """Render a report.

    Args:
        report: the evaluation; sections for robustness and normal images appear if it has them.
        views: pictures of the lesions to show, in order.
        details: lines of the header besides ``report.about``, such as command and versions.

    Returns:
        An HTML document that needs nothing else.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    facts = {**report.about, "seed": str(report.seed), **details}
    body = [
        "<h1>Segmentation from prompts: evaluation</h1>",
        "<p class='soft'>Research results, not for diagnosis.</p>",
        *fact_list(facts),
        *_summary_section(report),
        *_robustness_section(report),
        *_normals_section(report),
        *_cases_section(views),
    ]
    return html_page("samus-edge evaluation", body)


def _summary_section(report: EvaluationReport) -> list[str]:
    standard = {protocol.name for protocol in STANDARD_PROTOCOLS}
    scores = [s for s in report.scores if s.image == AS_IS and s.prompt in standard]
    summaries = [s for s in report.summaries if s.prompt in standard]
    section = ["<h2>Results</h2>", html_table(SUMMARY_COLUMNS, 2, _summary_rows(report.summaries))]
    section.append(
        "<p class='soft'>Means over lesions; in brackets 95 % bootstrap intervals, near-duplicate "
        "images resampled together. Dice and IoU at the image's own size; NSD (normalised surface "
        f"Dice, tolerance {NSD_TOLERANCE_PX:g} px) and Hausdorff distances in pixels at 256x256. "
        "HD rows is the distance that SAMUS's reference implementation reports. Lesion sizes by the "
        "diameter of the circle of equal area at 256x256: small below "
        f"{MEDIUM_FROM_PX:g} px, large from {LARGE_FROM_PX:g} px.</p>"
    )
    if scores:
        plots = {
            "Dice of the lesions": plot_dice_distribution(scores),
            "Dice by class and lesion size": plot_groups(summaries),
            "Dice over lesion size": plot_dice_over_size(scores),
        }
        section.append("<div class='plots'>")
        section += [_svg_image(svg, title) for title, svg in plots.items()]
        section.append("</div>")
    return section


SUMMARY_COLUMNS: Final = (
    *("prompt", "lesions of", "n", "Dice", "95 %", "median", "worst", "IoU", "NSD"),
    *("HD", "HD Manhattan", "HD95", "HD rows"),
)


def _summary_rows(summaries: Sequence[Summary]) -> Iterable[tuple[bool, Sequence[Cell]]]:
    for summary in summaries:
        everything = (summary.class_name, summary.size) == (ALL_CLASSES, ALL_SIZES)
        name = summary.class_name if summary.size == ALL_SIZES else summary.size
        distances = (summary.hd, summary.hd_manhattan, summary.hd95, summary.hd_rows)
        yield (
            everything,
            (
                summary.prompt if everything else "",
                "all" if everything else name,
                summary.lesions,
                summary.dice.mean,
                _interval(summary.dice_interval),
                summary.dice.median,
                summary.dice.worst,
                summary.iou.mean,
                summary.nsd.mean,
                *(f"{distance.mean:.2f}" for distance in distances),
            ),
        )


def _robustness_section(report: EvaluationReport) -> list[str]:
    if not report.robustness:
        return []
    rows: list[tuple[bool, Sequence[Cell]]] = []
    before = ("", "")
    for row in report.robustness:
        own = (row.change, row.reference)
        rows.append(
            (
                own != before,
                (
                    row.change if own != before else "",
                    row.prompt,
                    row.level,
                    row.dice.mean,
                    _interval(row.dice_interval),
                    f"{row.dice_change:+.4f}",
                    _interval(row.dice_change_interval, "+.4f"),
                    row.dice.worst,
                    row.low_dice_lesions,
                ),
            )
        )
        before = own
    columns = (
        *("change", "prompt", "level", "Dice", "95 %", "difference", "95 %", "worst"),
        f"below {LOW_DICE:g}",
    )
    return [
        "<h2>Robustness</h2>",
        _svg_image(plot_robustness(report.robustness), "Dice by change and level"),
        html_table(columns, 3, rows),
        (
            "<p class='soft'>The difference is to the same lesions with the exact box (jitter, loose and "
            "tight box), the centre point (point off centre), the standard box (box and point), or the "
            "same prompt on the image as it is. Gain: factor on grey levels. Gamma: power of the grey "
            "level. Speckle: multiplicative noise, standard deviation as a fraction of the grey level. "
            "Noise: standard deviation in grey levels of 255. Stored smaller: shrunk to that share of "
            "width and height and enlarged again. Frame size: resized to that size, prompts scaled; "
            "masks are scored at the original size.</p>"
        ),
    ]


def _normals_section(report: EvaluationReport) -> list[str]:
    if not report.normals:
        return []
    rows = [
        (
            True,
            (
                summary.prompt,
                summary.images,
                f"{summary.marked_fraction:.1%}",
                f"{summary.mean_area_fraction:.1%}",
                f"{summary.mean_iou_prediction:.3f}",
                f"{summary.mean_iou_prediction_lesions:.3f} ({summary.lesion_prompt})",
                f"{summary.iou_prediction_auc:.3f}",
            ),
        )
        for summary in report.normals
    ]
    columns = (
        *("prompt", "images", "with a mask", "mean marked area", "mean predicted IoU"),
        *("on lesions", "AUC"),
    )
    return [
        "<h2>Images without a lesion</h2>",
        html_table(columns, 1, rows),
        (
            "<p class='soft'>A promptable model is asked to segment something, so a mask on a normal "
            "image is its behaviour and not a false detection. The box is as large as the median lesion's "
            "and in the middle of the image, the point is its centre. AUC: the probability that the "
            "model's own IoU estimate is higher on a lesion than on a normal image; 0.5 tells nothing "
            "apart.</p>"
        ),
    ]


def _cases_section(views: Sequence[CaseView]) -> list[str]:
    if not views:
        return []
    section = [
        "<h2>Worst lesions, with the median and the best</h2>",
        "<p class='soft'>Outlines of the truth (1) and of the prediction (2).</p>",
    ]
    for prompt in dict.fromkeys(view.ranked.score.prompt for view in views):
        section += [f"<h3>{escape(prompt)}</h3>", "<div class='pictures'>"]
        for view in views:
            score = view.ranked.score
            if score.prompt != prompt:
                continue
            caption = (
                f"{view.ranked.role}: {score.key}, lesion {score.instance} ({score.size}), "
                f"Dice {score.dice:.3f}, HD95 {score.hd95:.1f} px"
            )
            section.append(
                f"<figure><img src='{jpeg_uri(view.picture)}' alt='{escape(caption)}'>"
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        section.append("</div>")
    return section


def _interval(ends: tuple[float, float], number: str = ".4f") -> str:
    return f"[{ends[0]:{number}}, {ends[1]:{number}}]"


def _svg_image(svg: str, title: str) -> str:
    # An image, not inline SVG: the identifiers of several documents would clash in one page.
    data = base64.b64encode(svg.encode()).decode()
    return f"<img class='plot' src='data:image/svg+xml;base64,{data}' alt='{escape(title)}'>"
