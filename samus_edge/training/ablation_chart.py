"""The results of an ablation as a chart."""

from typing import TYPE_CHECKING

from samus_edge.training.ablation import VARIANTS
from samus_edge.training.ablation_results import AblationResults
from samus_edge.training.figure import new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"dice": "Dice", "hd": "Hausdorff distance, pixels at 256x256"}


def draw_ablation(results: AblationResults) -> bytes:
    """Draw every seed, and mean and standard deviation over seeds, of each variant.

    Args:
        results: the results.

    Returns:
        A PNG file: a row for each of Dice and Hausdorff distance, a column for each kind of prompt.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    prompts = list(dict.fromkeys(row.prompt for row in results.rows))
    figure = new_figure(4.0 * len(prompts), 3.2 * len(TITLES))
    panels = figure.subplots(len(TITLES), len(prompts), squeeze=False)
    for metric, axes_of_metric in zip(TITLES, panels, strict=True):
        for prompt, axes in zip(prompts, axes_of_metric, strict=True):
            _draw_panel(axes, results, prompt, metric)
    return png_bytes(figure)


def _draw_panel(axes: "Axes", results: AblationResults, prompt: str, metric: str) -> None:
    rows = {row.variant: row.metrics[metric] for row in results.rows if row.prompt == prompt}
    for position, variant in enumerate(VARIANTS):
        spread = rows[variant]
        axes.plot([position] * len(spread.per_seed), spread.per_seed, "o", color="0.6", ms=4)
        std = spread.std or 0.0
        axes.errorbar(position + 0.15, spread.mean, std, fmt="s", color="black", ms=5, capsize=3)
    axes.set_xticks(range(len(VARIANTS)), list(VARIANTS))
    axes.set_xlim(-0.5, len(VARIANTS) - 0.5)
    axes.set_title(f"{TITLES[metric]}\n{prompt}", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
