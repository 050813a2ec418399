"""The tables that the commands print."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich import box
from rich.markup import escape
from rich.table import Table

from samus_edge.benchmarking.bench_results import BenchResults
from samus_edge.benchmarking.turns import Ratio

if TYPE_CHECKING:
    from rich.console import Console

    from samus_edge.evaluation.evaluate import EvaluationReport
    from samus_edge.export.parity import ParityReport
    from samus_edge.runtime.bundle.bundle import Bundle
    from samus_edge.runtime.bundle.manifest import GraphRecord
    from samus_edge.verification.verify_bundle import VerificationResult


def verdict_table(result: "VerificationResult") -> Table:
    """One row for each precision: verdict, speed, image embeddings."""
    table = _table(
        "Medians, milliseconds; in brackets to the reference. Faster is no limit by itself",
        ("precision", "limits", "faster"),
        *("encoder, ms", "decoder, ms", "embedding cosine", "worst", "error max"),
    )
    for verified in result.precisions:
        figures, latency = verified.figures, verified.figures.latency
        failed = sum(not outcome.passed for outcome in verified.outcomes)
        verdict = f"{failed} failed" if failed else f"all {len(verified.outcomes)} hold"
        encoder = decoder = ""
        if latency is not None:
            encoder = _milliseconds(latency.encoder_ms, latency.encoder_ratio)
            decoder = _milliseconds(latency.decoder_ms, latency.decoder_ratio)
        table.add_row(
            verified.precision,
            verdict,
            verified.speed,
            encoder,
            decoder,
            _number(figures.embedding_cosine_mean, ".8f"),
            _number(figures.embedding_cosine_worst, ".8f"),
            _number(figures.embedding_error_max, ".3g"),
        )
    return table


def prompt_table(result: "VerificationResult") -> Table:
    """One row for each precision and kind of prompt: logits, masks, Dice."""
    table = _table(
        "Errors and mask IoU to the reference; Dice drop in points with its 95 % interval",
        ("precision", "prompt"),
        *("n", "logit error max", "mean", "mask IoU", "worst", "predicted IoU error max"),
        *("Dice", "drop", "95 % interval"),
    )
    for verified in result.precisions:
        for figures in verified.figures.protocols:
            interval = ""
            if figures.dice_drop_interval is not None:
                low, high = figures.dice_drop_interval
                interval = f"{low:+.3f} {high:+.3f}"
            table.add_row(
                verified.precision,
                figures.prompt,
                str(figures.prompts),
                _number(figures.logit_error_max, ".3g"),
                _number(figures.logit_error_mean, ".3g"),
                _number(figures.mask_iou_mean, ".5f"),
                _number(figures.mask_iou_worst, ".5f"),
                _number(figures.iou_prediction_error_max, ".2g"),
                _number(figures.dice, ".4f"),
                _number(figures.dice_drop, "+.3f"),
                interval,
            )
    return table


def _milliseconds(value: float, ratio: float | None) -> str:
    return f"{value:.1f}" if ratio is None else f"{value:.1f} ({ratio:.2f})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _table(title: str, text_columns: tuple[str, ...], *number_columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in text_columns:
        table.add_column(name)
    for name in number_columns:
        table.add_column(name, justify="right")
    return table


def summary_table(report: "EvaluationReport", dataset: str = "") -> Table:
    """The summaries: mean metrics per prompt, class and lesion size, with the interval of Dice."""
    from samus_edge.evaluation.summary import ALL_SIZES

    table = _table(
        f"{dataset}{': ' if dataset else ''}Means over lesions. NSD and distances at 256x256: "
        "tolerance 2 px, pixels. HD rows: as "
        "SAMUS' reference",
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


def datasets_table(reports: "Mapping[str, EvaluationReport]") -> Table:
    """Mean Dice over all lesions of each dataset, and the mean of these means, by prompt."""
    from samus_edge.evaluation.summary import ALL_CLASSES, ALL_SIZES

    rows: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for name, report in reports.items():
        for each in report.summaries:
            if (each.class_name, each.size) == (ALL_CLASSES, ALL_SIZES):
                rows.setdefault(name, {})[each.prompt] = each.dice.mean
                counts[name] = each.lesions
    prompts = list(dict.fromkeys(prompt for of_dataset in rows.values() for prompt in of_dataset))
    table = _table("Dice, means over lesions", ("dataset",), "lesions", *prompts)
    for name, dices in rows.items():
        table.add_row(name, str(counts[name]), *(f"{dices[prompt]:.4f}" for prompt in prompts))
    means = [np.mean([dices[prompt] for dices in rows.values()]) for prompt in prompts]
    table.add_row("mean", "", *(f"{mean:.4f}" for mean in means))
    return table


def robustness_table(report: "EvaluationReport") -> Table:
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


def normals_table(report: "EvaluationReport") -> Table:
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


def worst_table(report: "EvaluationReport", count: int) -> Table:
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


TYPICAL_SIZES = {"batch": 1, "height": 480, "width": 640, "prompts": 1, "points": 2}
"""For which operations are counted: one frame, one box."""


def print_summary(console: "Console", bundle: "Bundle", parity: "ParityReport") -> None:
    """Print graphs, inputs and outputs, operations, and parity.

    Args:
        console: where to.
        bundle: the bundle as it was written.
        parity: parity of its float32 graphs with torch.
    """
    manifest = bundle.manifest
    columns = ("graph", "precision", "MB", "weights", "opset", "GFLOP")
    table = _table(escape(f"{bundle.path}: {manifest.name}"), columns)
    gflop: dict[str, str] = {}
    for name, record in manifest.graphs.items():
        if record.precision == "fp32":
            gflop[name] = f"{_gflop(bundle, name, record):.2f}"
        size = f"{record.size_bytes / 1e6:.2f}"
        base = name.split(".")[0]
        table.add_row(
            *(name, record.precision, size, record.weight_storage, str(record.opset)),
            gflop.get(base, ""),
        )
    console.print(table)
    for name, record in manifest.graphs.items():
        if name not in gflop:
            continue  # conversions take and give the same
        console.print(name, highlight=False)
        for arrow, specs in (("in ", record.inputs), ("out", record.outputs)):
            for spec in specs:
                console.print(f"  {arrow} {spec}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"parity with torch on {parity.frames} frames, {parity.prompts} prompts: logits within "
        f"{parity.max_abs_logit_error:.1e}, worst mask IoU {parity.min_mask_iou:.5f}",
        highlight=False,
        soft_wrap=True,
    )


def _gflop(bundle: "Bundle", name: str, record: "GraphRecord") -> float:
    """Of one frame, or one box."""
    import onnx

    from samus_edge.export.graph_cost import GFLOP, count_flop

    feeds: dict[str, npt.NDArray[np.generic]] = {
        spec.name: np.zeros(
            [size if isinstance(size, int) else TYPICAL_SIZES.get(size, 1) for size in spec.shape],
            spec.dtype,
        )
        for spec in record.inputs
    }
    return sum(count_flop(onnx.load_from_string(bundle.read_graph(name)), feeds).values()) / GFLOP


_MEGA = 1e6


def latency_table(results: BenchResults) -> Table:
    """One row for each subject, stage and number of items."""
    hw = "x".join(str(size) for size in results.facts["frame_hw"])
    has_device = any(row.device is not None for row in results.rows)
    title = (
        f"{results.facts['bundle']}, frame {hw}, {results.facts['threads']} threads; milliseconds"
    )
    table = _table(
        title,
        ("stage", "n", "subject"),
        *("p50", "p90", "p99", "per s", "time, 95 %"),
        *(("device p50", "device time, 95 %") if has_device else ()),
    )
    before: tuple[str, int] | None = None
    for row in results.rows:
        key = (row.stage, row.items)
        latency = row.latency
        times = [f"{value:.2f}" for value in (latency.p50, latency.p90, latency.p99)]
        cells = [row.stage if before != key else "", str(row.items), row.subject, *times]
        cells += [f"{latency.per_second:.1f}", _ratio(row.ratio)]
        if has_device:
            cells.append("" if row.device is None else f"{row.device.p50:.3f}")
            cells.append(_ratio(row.device_ratio))
        if before is not None and before != key:
            table.add_section()
        table.add_row(*cells)
        before = key
    return table


def subject_table(results: BenchResults) -> Table:
    """What computed, and its memory."""
    title = "memory that each took, its first runs included"
    table = _table(title, ("subject", "device", "version"), "MB", "MB on the GPU")
    for each in results.subjects:
        memory = (_mb(each.memory_bytes), _mb(each.gpu_memory_bytes))
        table.add_row(each.name, each.device, each.version, *memory)
    return table


def _ratio(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


def _mb(value: int | None) -> str:
    return "" if value is None else f"{value / _MEGA:.0f}"
