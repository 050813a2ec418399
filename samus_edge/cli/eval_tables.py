"""The tables that `samus-edge eval` prints."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from samus_edge.evaluation.report import EvaluationReport

__all__ = ["normals_table", "robustness_table", "summary_table", "worst_table"]


def summary_table(report: "EvaluationReport") -> "Table":
    """The summaries: mean metrics per prompt, class and lesion size, with the interval of Dice."""
    from samus_edge.evaluation.summary import ALL_SIZES

    table = _table(
        "Means over lesions. NSD and distances at 256x256: tolerance 2 px, pixels. HD rows: as SAMUS' reference",
        ("prompt", "lesions"),
        *("n", "Dice", "95 % interval", "median", "worst", "IoU", "NSD"),
        *("HD", "HD Manhattan", "HD95", "HD rows"),
    )
    for summary in report.summaries:
        low, high = summary.dice_interval
        distances = (summary.hd, summary.hd_manhattan, summary.hd95, summary.hd_rows)
        table.add_row(
            summary.prompt,
            summary.class_name if summary.size == ALL_SIZES else summary.size,
            str(summary.lesions),
            f"{summary.dice.mean:.4f}",
            f"{low:.4f}-{high:.4f}",
            f"{summary.dice.median:.4f}",
            f"{summary.dice.worst:.4f}",
            f"{summary.iou.mean:.4f}",
            f"{summary.nsd.mean:.4f}",
            *(f"{distance.mean:.2f}" for distance in distances),
        )
    return table


def robustness_table(report: "EvaluationReport") -> "Table":
    """Dice under each change of prompt or image, and its difference to the unchanged."""
    from samus_edge.evaluation.robustness import LOW_DICE

    table = _table(
        "Difference: mean over lesions, to the exact box, the centre point, or the image as it is",
        ("change", "prompt", "level"),
        *("Dice", "95 % interval", "difference", "95 % interval", "worst", f"below {LOW_DICE:g}"),
    )
    for row in report.robustness:
        (low, high), (change_low, change_high) = row.dice_interval, row.dice_change_interval
        table.add_row(
            row.change,
            row.prompt,
            row.level,
            f"{row.dice.mean:.4f}",
            f"{low:.4f}-{high:.4f}",
            f"{row.dice_change:+.4f}",
            f"{change_low:+.4f} {change_high:+.4f}",
            f"{row.dice.worst:.4f}",
            str(row.low_dice_lesions),
        )
    return table


def normals_table(report: "EvaluationReport") -> "Table":
    """What prompts on images without a lesion give."""
    table = _table(
        "Images without a lesion. A promptable model segments what it is asked for: behaviour, "
        "not an error rate",
        ("prompt",),
        *("images", "with a mask", "mean area", "mean predicted IoU", "on lesions", "AUC"),
    )
    for summary in report.normals:
        table.add_row(
            summary.prompt,
            str(summary.images),
            f"{summary.marked_fraction:.1%}",
            f"{summary.mean_area_fraction:.1%}",
            f"{summary.mean_iou_prediction:.3f}",
            f"{summary.mean_iou_prediction_lesions:.3f}",
            f"{summary.iou_prediction_auc:.3f}",
        )
    return table


def worst_table(report: "EvaluationReport", count: int) -> "Table":
    """The worst lesions of each summarised prompt."""
    from samus_edge.evaluation.worst_cases import worst_scores

    table = _table("Worst lesions", ("prompt", "case"), *("lesion", "size", "Dice", "HD95"))
    for prompt in dict.fromkeys(summary.prompt for summary in report.summaries):
        for score in worst_scores(report.scores, prompt, count):
            table.add_row(
                prompt,
                score.key,
                str(score.instance),
                score.size,
                f"{score.dice:.4f}",
                f"{score.hd95:.2f}",
            )
    return table


def _table(caption: str, text_columns: tuple[str, ...], *number_columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    for name in text_columns:
        table.add_column(name)
    for name in number_columns:
        table.add_column(name, justify="right")
    return table
