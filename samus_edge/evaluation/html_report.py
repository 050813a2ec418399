"""An evaluation as one HTML file with its plots and pictures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from samus_edge.data.prompt_protocol import STANDARD_PROTOCOLS
from samus_edge.evaluation.evaluate import NSD_TOLERANCE_PX, EvaluationReport
from samus_edge.evaluation.robustness import LOW_DICE, RobustnessRow
from samus_edge.evaluation.summary import (
    AS_IS,
    LARGE_FROM_PX,
    MEDIUM_FROM_PX,
    InstanceScore,
    Summary,
)
from samus_edge.reporting.figure import COLOURS, MARKERS, new_figure, svg_text
from samus_edge.reporting.html import render_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scored = TypeVar("Scored", InstanceScore, Summary)
PANELS_PER_ROW: Final = 4
DICE_BINS: Final = 20


def render_evaluation(report: EvaluationReport, details: Mapping[str, str]) -> str:
    """Render a report.

    Args:
        report: the evaluation; sections for robustness, normal images and pictures of lesions
            appear if it has them.
        details: lines of the header besides ``report.about``, such as command and versions.

    Returns:
        An HTML document that needs nothing else.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    standard = {protocol.name for protocol in STANDARD_PROTOCOLS}
    plots = {}
    scores = [s for s in report.scores if s.image == AS_IS and s.prompt in standard]
    summaries = [s for s in report.summaries if s.prompt in standard]
    if scores:
        plots = {
            "Dice of the lesions": plot_dice_distribution(scores),
            "Dice by class and lesion size": plot_groups(summaries),
            "Dice over lesion size": plot_dice_over_size(scores),
        }
    lesions: dict[str, list[tuple[str, object]]] = {}
    for view in report.views:
        score = view.score
        caption = (
            f"{view.role}: {score.key}, lesion {score.instance} ({score.size}), "
            f"Dice {score.dice:.3f}, HD95 {score.hd95:.1f} px"
        )
        lesions.setdefault(score.prompt, []).append((caption, view.picture))
    values = {
        "header": {**report.about, "seed": report.seed, **details},
        "report": report,
        "plots": plots,
        "robustness_plot": plot_robustness(report.robustness) if report.robustness else "",
        "nsd_tolerance_px": NSD_TOLERANCE_PX,
        "medium_from_px": MEDIUM_FROM_PX,
        "large_from_px": LARGE_FROM_PX,
        "low_dice": LOW_DICE,
        "lesions": lesions,
    }
    return render_page("evaluation.html", values)


def plot_dice_distribution(scores: Sequence[InstanceScore]) -> str:
    """How many lesions have which Dice, for each prompt; an SVG document."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.2, 3.0)
    axes = figure.subplots()
    for index, (prompt, mine) in enumerate(_by_prompt(scores).items()):
        dices, colour = [score.dice for score in mine], _colour(index)
        counts, edges = np.histogram(dices, bins=DICE_BINS, range=(0.0, 1.0))
        axes.stairs(counts, edges, color=colour, linewidth=1.6, label=prompt, zorder=3 + index)
        axes.stairs(counts, edges, color=colour, alpha=0.18, fill=True)
        axes.axvline(float(np.mean(dices)), color=colour, linewidth=1.0, linestyle="--")
    axes.set(xlabel="Dice (dashed: mean)", ylabel="lesions", xlim=(0.0, 1.0))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left", frameon=False)
    return svg_text(figure)


def plot_groups(summaries: Sequence[Summary]) -> str:
    """Mean Dice with its interval for each class and each lesion size; an SVG document."""
    figure = new_figure(5.2, 3.0)
    axes = figure.subplots()
    by_prompt = _by_prompt(summaries)
    first = next(iter(by_prompt.values()))
    labels = [f"{summary.group}\n({summary.lesions})" for summary in first]
    shifts = np.linspace(-0.18, 0.18, len(by_prompt)) if len(by_prompt) > 1 else np.zeros(1)
    for index, (prompt, mine) in enumerate(by_prompt.items()):
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
    axes.legend(loc="lower left", frameon=False)
    return svg_text(figure)


def plot_dice_over_size(scores: Sequence[InstanceScore]) -> str:
    """Dice of every lesion over its diameter; an SVG document."""
    figure = new_figure(5.2, 3.0)
    axes = figure.subplots()
    for index, (prompt, mine) in enumerate(_by_prompt(scores).items()):
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
    axes.legend(loc="lower right", frameon=False)
    return svg_text(figure)


def plot_robustness(rows: Sequence[RobustnessRow]) -> str:
    """One panel per change: mean Dice with its interval over the levels; an SVG document."""
    changes = list(dict.fromkeys(row.change for row in rows))
    panel_rows = -(-len(changes) // PANELS_PER_ROW)
    figure = new_figure(10.6, 2.6 * panel_rows)
    grid = figure.subplots(panel_rows, PANELS_PER_ROW, sharey=True, squeeze=False)
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
        list(lines.values()),
        list(lines),
        loc="outside upper right",
        ncols=len(lines),
        frameon=False,
    )
    return svg_text(figure)


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


def _by_prompt(found: Sequence[Scored]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for each in found:
        groups.setdefault(each.prompt, []).append(each)
    return groups


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
