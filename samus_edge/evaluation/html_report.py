"""An evaluation as one HTML file: no network, no script, pictures and plots inside."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samus_edge.data.prompt_protocol import STANDARD_PROTOCOLS
from samus_edge.errors import MissingExtraError
from samus_edge.evaluation.evaluate import NSD_TOLERANCE_PX
from samus_edge.evaluation.report import EvaluationReport
from samus_edge.evaluation.robustness import LOW_DICE, RobustnessRow
from samus_edge.evaluation.summary import (
    ALL_CLASSES,
    ALL_SIZES,
    AS_IS,
    LARGE_FROM_PX,
    MEDIUM_FROM_PX,
    InstanceScore,
    Summary,
)
from samus_edge.evaluation.worst_cases import CaseView
from samus_edge.reporting.html import Cell, fact_list, html_page, html_table, jpeg_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "check_matplotlib",
    "plot_dice_distribution",
    "plot_dice_over_size",
    "plot_groups",
    "plot_robustness",
    "render_html",
]


# Told apart also with a colour vision deficiency and in grey (Okabe and Ito, 2008).
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
INK: Final = "#333333"
GRID: Final = "#DDDDDD"

STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: smaller, searchable, and in the reader's font
    "svg.hashsalt": "samus-edge",  # the same plot is the same file
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}

PANELS_PER_ROW: Final = 4
DICE_BINS: Final = 20


def check_matplotlib() -> None:
    """Make sure, before hours of work, that plots can be drawn.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as err:
        raise MissingExtraError(
            "The HTML report needs 'matplotlib', which is not installed. "
            "Install it with: pip install 'samus-edge[train]'"
        ) from err


def plot_dice_distribution(scores: Sequence[InstanceScore]) -> str:
    """How many lesions have which Dice, for each prompt; an SVG document."""

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        for index, prompt in enumerate(_prompts(scores)):
            dices = [score.dice for score in scores if score.prompt == prompt]
            counts, edges = np.histogram(dices, bins=DICE_BINS, range=(0.0, 1.0))
            axes.stairs(
                counts, edges, color=_colour(index), linewidth=1.6, label=prompt, zorder=3 + index
            )
            axes.stairs(counts, edges, color=_colour(index), alpha=0.18, fill=True)
            axes.axvline(float(np.mean(dices)), color=_colour(index), linewidth=1.0, linestyle="--")
        axes.set(xlabel="Dice (dashed: mean)", ylabel="lesions", xlim=(0.0, 1.0))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper left")

    return _svg((5.2, 3.0), draw)


def plot_groups(summaries: Sequence[Summary]) -> str:
    """Mean Dice with its interval for each class and each lesion size; an SVG document."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        prompts = list(dict.fromkeys(summary.prompt for summary in summaries))
        first = [summary for summary in summaries if summary.prompt == prompts[0]]
        labels = [f"{_group_name(summary)}\n({summary.lesions})" for summary in first]
        shifts = np.linspace(-0.18, 0.18, len(prompts)) if len(prompts) > 1 else np.zeros(1)
        for index, prompt in enumerate(prompts):
            mine = [summary for summary in summaries if summary.prompt == prompt]
            _points(
                axes,
                np.arange(len(mine)) + shifts[index],
                [summary.dice.mean for summary in mine],
                [summary.dice_interval for summary in mine],
                index,
                prompt,
                line=False,
            )
        axes.set_xticks(np.arange(len(labels)), labels)
        axes.grid(visible=False, axis="x")
        axes.set(ylabel="mean Dice, 95 % interval")
        axes.legend(loc="lower left")

    return _svg((5.2, 3.0), draw)


def plot_dice_over_size(scores: Sequence[InstanceScore]) -> str:
    """Dice of every lesion over its diameter; an SVG document."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for index, prompt in enumerate(_prompts(scores)):
            mine = [score for score in scores if score.prompt == prompt]
            axes.scatter(
                [score.diameter_px for score in mine],
                [score.dice for score in mine],
                s=12,
                color=_colour(index),
                marker=MARKERS[index % len(MARKERS)],
                alpha=0.55,
                linewidths=0,
                label=prompt,
            )
        for limit in (MEDIUM_FROM_PX, LARGE_FROM_PX):
            axes.axvline(limit, color="#999999", linewidth=0.8, linestyle=":")
        axes.set(
            xlabel="lesion diameter at 256x256, px (dotted: small | medium | large)",
            ylabel="Dice",
            ylim=(0.0, 1.02),
        )
        axes.legend(loc="lower right")

    return _svg((5.2, 3.0), draw)


def plot_robustness(rows: Sequence[RobustnessRow]) -> str:
    """One panel per change: mean Dice with its interval over the levels; an SVG document."""

    def draw(figure: "Figure") -> None:
        changes = list(dict.fromkeys(row.change for row in rows))
        grid = figure.subplots(
            -(-len(changes) // PANELS_PER_ROW), PANELS_PER_ROW, sharey=True, squeeze=False
        )
        panels = list(grid.flat)
        for axes in panels[len(changes) :]:
            axes.set_visible(False)
        for axes, change in zip(panels, changes, strict=False):
            _robustness_panel(axes, change, [row for row in rows if row.change == change])
        for axes in grid[:, 0]:
            axes.set_ylabel("mean Dice")
        # one legend for all panels, outside them, where it hides no interval
        lines = {
            label: handle
            for axes in panels
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            list(lines.values()), list(lines), loc="outside upper right", ncols=len(lines)
        )

    panel_rows = -(-len({row.change for row in rows}) // PANELS_PER_ROW)
    return _svg((10.6, 2.6 * panel_rows), draw)


def _robustness_panel(axes: "Axes", change: str, rows: Sequence[RobustnessRow]) -> None:
    levels = list(dict.fromkeys(row.level for row in rows))
    kinds = list(dict.fromkeys(row.reference for row in rows))
    for kind in kinds:
        mine = [row for row in rows if row.reference == kind]
        _points(
            axes,
            np.array([levels.index(row.level) for row in mine], dtype=np.float64),
            [row.dice.mean for row in mine],
            [row.dice_interval for row in mine],
            int("point" in kind),
            "point" if "point" in kind else "box",
            line=True,
        )
    axes.set_title(change, fontsize=9.5)
    crowded = sum(len(level) for level in levels) > 28
    axes.set_xticks(
        range(len(levels)),
        levels,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
        fontsize=8,
    )
    axes.set_xlim(-0.4, len(levels) - 0.6)


def _points(
    axes: "Axes",
    x: Any,
    means: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    index: int,
    label: str,
    *,
    line: bool,
) -> None:
    """Points with the ends of their intervals."""
    centres = np.array(means)
    ends = np.array(intervals)
    # rounding may put a mean a hair outside an interval of no width
    errors = np.maximum([centres - ends[:, 0], ends[:, 1] - centres], 0.0)
    axes.errorbar(
        x,
        centres,
        yerr=errors,
        color=_colour(index),
        marker=MARKERS[index % len(MARKERS)],
        markersize=4.5,
        linewidth=1.4,
        linestyle="-" if line else "none",
        elinewidth=1.0,
        capsize=2.5,
        label=label,
    )


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _prompts(scores: Sequence[InstanceScore]) -> list[str]:
    return list(dict.fromkeys(score.prompt for score in scores))


def _group_name(summary: Summary) -> str:
    if summary.size != ALL_SIZES:
        return summary.size
    return "all" if summary.class_name == ALL_CLASSES else summary.class_name


def _svg(size_inches: tuple[float, float], draw: "Callable[[Figure], None]") -> str:
    check_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size_inches, layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


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
