"""The tables that `samus-edge verify` prints."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from samus_edge.evaluation.bundle_verification import VerificationResult

__all__ = ["prompt_table", "verdict_table"]


def verdict_table(result: "VerificationResult") -> "Table":
    """One row for each precision: verdict, speed, image embeddings."""
    from samus_edge.evaluation.verification_report import speed_text

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
            speed_text(verified),
            encoder,
            decoder,
            _number(figures.embedding_cosine_mean, ".8f"),
            _number(figures.embedding_cosine_worst, ".8f"),
            _number(figures.embedding_error_max, ".3g"),
        )
    return table


def prompt_table(result: "VerificationResult") -> "Table":
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


def _table(caption: str, text_columns: tuple[str, ...], *number_columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    for name in text_columns:
        table.add_column(name)
    for name in number_columns:
        table.add_column(name, justify="right")
    return table
