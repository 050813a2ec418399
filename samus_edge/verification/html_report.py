"""A verification as one HTML file: verdict, limits, figures, and the masks that agree least."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from samus_edge.reporting.html import Cell, fact_list, html_page, html_table, jpeg_uri
from samus_edge.verification.gates import FASTER_BELOW, ProtocolFigures
from samus_edge.verification.verify_bundle import PrecisionVerification, VerificationResult
from samus_edge.verification.worst_disagreements import draw_disagreement

__all__ = ["render_verification", "speed_text"]

ABSENT: Final = ""
"""In a table, where there is no figure."""

GATE_COLUMNS: Final = ("precision", "limit", "prompt", "holds", "figure", "limit is")
AGREEMENT_COLUMNS: Final = (
    *("precision", "prompt", "n", "logit error max", "mean", "mask IoU mean", "worst"),
    *("predicted IoU error mean", "max", "empty masks"),
)
DICE_COLUMNS: Final = ("precision", "prompt", "n", "Dice", "of the reference", "drop", "95 %")
GRAPH_COLUMNS: Final = (
    *("precision", "faster", "encoder, ms", "ratio", "decoder, ms", "ratio", "both, ratio"),
    *("embedding cosine mean", "worst", "error max"),
)


def render_verification(result: VerificationResult, details: Mapping[str, str]) -> str:
    """Render a verification.

    Args:
        result: with pictures of the worst disagreements, where it has any.
        details: lines of the header besides ``result.about``, such as the command.

    Returns:
        An HTML document that needs nothing else.
    """
    about = {name: str(value) for name, value in result.about.items()}
    facts = {"bundle": result.bundle, **about, **details}
    body = [
        f"<h1>Verification: {'passed' if result.passed else 'failed'}</h1>",
        "<p class='soft'>Research results, not for diagnosis.</p>",
        *_verdicts(result),
        *fact_list(facts),
        "<h2>Limits</h2>",
        html_table(GATE_COLUMNS, 4, _gate_rows(result)),
        *_reasons(result),
        *_dice_section(result),
        *_agreement_section(result),
        *_graph_section(result),
        *_pictures_section(result),
        *_hashes_section(result),
    ]
    return html_page("samus-edge verification", body)


def speed_text(verified: PrecisionVerification) -> str:
    """Whether a precision is faster than the reference: "yes", "no", "not judged", or ""."""
    latency = verified.figures.latency
    if latency is None or latency.ratio is None:
        return ""
    if latency.is_faster is None:
        return "not judged"
    return "yes" if latency.is_faster else "no"


def _verdicts(result: VerificationResult) -> list[str]:
    lines = []
    for each in result.precisions:
        verdict = "passed" if each.passed else "FAILED"
        speed = speed_text(each)
        if speed:
            speed = f", {'faster' if speed == 'yes' else f'faster: {speed}'}"
        lines.append(f"<li><b>{escape(each.precision)}</b>: {verdict}{speed}")
        failed = "; ".join(outcome.text for outcome in each.outcomes if not outcome.passed)
        lines.append(f"{': ' if failed else ''}{escape(failed)}</li>")
    return ["<ul>", *lines, "</ul>"]


def _gate_rows(result: VerificationResult) -> Iterator[tuple[bool, Sequence[Cell]]]:
    for verified in result.precisions:
        for index, outcome in enumerate(verified.outcomes):
            figure = outcome.detail if outcome.value is None else f"{outcome.value:.6g}"
            yield (
                index == 0,
                (
                    verified.precision if index == 0 else "",
                    outcome.gate.label,
                    outcome.prompt,
                    "yes" if outcome.passed else "NO",
                    figure,
                    outcome.gate.rule,
                ),
            )


def _reasons(result: VerificationResult) -> list[str]:
    gates = {outcome.name: outcome.gate for each in result.precisions for outcome in each.outcomes}
    reasons = [
        f"<li>{escape(f'{gate.label} ({gate.rule}): {gate.reason}')}</li>"
        for gate in gates.values()
    ]
    return [
        "<details><summary class='soft'>Why these limits</summary><ul class='soft'>",
        *reasons,
        "</ul></details>",
    ]


def _dice_section(result: VerificationResult) -> list[str]:
    rows = [
        (first, cells)
        for verified in result.precisions
        for first, protocol in _protocols(verified)
        if (cells := _dice_cells(verified, protocol)) is not None
    ]
    if not rows:
        return [
            "<h2>Dice</h2>",
            "<p>The true masks of these frames are not known, so no Dice was measured.</p>",
        ]
    return [
        "<h2>Dice</h2>",
        html_table(DICE_COLUMNS, 2, rows),
        (
            "<p class='soft'>Mean over lesions, at the image's own size. The drop is in points "
            "(hundredths), to the reference on the same lesions; in brackets its 95 % bootstrap "
            "interval, near-duplicate images resampled together.</p>"
        ),
    ]


def _dice_cells(
    verified: PrecisionVerification, protocol: ProtocolFigures
) -> tuple[Cell, ...] | None:
    if protocol.dice is None:
        return None
    drop: tuple[Cell, ...] = (ABSENT, ABSENT, ABSENT)
    if protocol.dice_reference is not None and protocol.dice_drop is not None:
        low, high = protocol.dice_drop_interval or (float("nan"),) * 2
        drop = (
            f"{protocol.dice_reference:.4f}",
            f"{protocol.dice_drop:+.3f}",
            f"[{low:+.3f}, {high:+.3f}]",
        )
    name = verified.precision
    return (name, protocol.prompt, protocol.prompts, f"{protocol.dice:.4f}", *drop)


def _agreement_section(result: VerificationResult) -> list[str]:
    rows = [
        (
            first,
            (
                verified.precision,
                protocol.prompt,
                protocol.prompts,
                _number(protocol.logit_error_max, ".3g"),
                _number(protocol.logit_error_mean, ".3g"),
                _number(protocol.mask_iou_mean, ".5f"),
                _number(protocol.mask_iou_worst, ".5f"),
                _number(protocol.iou_prediction_error_mean, ".2g"),
                _number(protocol.iou_prediction_error_max, ".2g"),
                protocol.empty_masks,
            ),
        )
        for verified in result.precisions
        if not verified.figures.is_reference
        for first, protocol in _protocols(verified)
    ]
    if not rows:
        return []
    return [
        "<h2>Agreement with the reference</h2>",
        html_table(AGREEMENT_COLUMNS, 2, rows),
        (
            "<p class='soft'>Logits at 128x128, all four masks of a prompt. Masks at the image's own "
            "size.</p>"
        ),
    ]


def _graph_section(result: VerificationResult) -> list[str]:
    rows: list[tuple[bool, Sequence[Cell]]] = []
    for verified in result.precisions:
        figures = verified.figures
        latency = figures.latency
        if latency is None:
            continue
        rows.append(
            (
                False,
                (
                    verified.precision,
                    speed_text(verified) or "reference",
                    f"{latency.encoder_ms:.1f}",
                    _number(latency.encoder_ratio, ".2f"),
                    f"{latency.decoder_ms:.1f}",
                    _number(latency.decoder_ratio, ".2f"),
                    _number(latency.ratio, ".2f"),
                    _number(figures.embedding_cosine_mean, ".8f"),
                    _number(figures.embedding_cosine_worst, ".8f"),
                    _number(figures.embedding_error_max, ".3g"),
                ),
            )
        )
    notes = dict.fromkeys(
        f"{each.precision}: {each.figures.latency.note}."
        for each in result.precisions
        if each.figures.latency is not None and each.figures.latency.note
    )
    return [
        "<h2>Speed and image embeddings</h2>",
        html_table(GRAPH_COLUMNS, 2, rows),
        (
            "<p class='soft'>Medians, the precisions in turns on the same frames; ratios to the "
            "reference are medians of each frame's own. The decoder answers all prompts of one kind. "
            f"Faster: both together below {FASTER_BELOW:g} of the reference. Speed is no limit, but a "
            f"precision that is not faster is not worth shipping. {escape(' '.join(notes))}</p>"
        ),
    ]


def _pictures_section(result: VerificationResult) -> list[str]:
    section = ["<h2>Masks that agree least with the reference</h2>"]
    if not result.disagreements:
        return [*section, "<p>None were drawn, or every mask equals the reference's.</p>"]
    has_truth = result.disagreements[0].target is not None
    colours = ("cyan the truth, " if has_truth else "") + (
        "yellow the reference, magenta" if has_truth else "cyan the reference, yellow"
    )
    section.append(
        f"<p class='soft'>Outlines: {colours} the precision, which is drawn last and hides what "
        "agrees. The part of the image around the masks.</p>"
    )
    names = dict.fromkeys(each.precision for each in result.disagreements)
    for name in names:
        section += [f"<h3>{escape(name)}</h3>", "<div class='pictures'>"]
        for each in result.disagreements:
            if each.precision == name:
                caption = escape(each.caption)
                uri = jpeg_uri(draw_disagreement(each))
                section.append(
                    f"<figure><img src='{uri}' alt='{caption}'>"
                    f"<figcaption>{caption}</figcaption></figure>"
                )
        section.append("</div>")
    return section


def _hashes_section(result: VerificationResult) -> list[str]:
    return [
        "<h2>Graphs</h2>",
        *fact_list(
            {
                f"{each.precision} {kind}": sha256
                for each in result.precisions
                for kind, sha256 in each.graphs.items()
            }
        ),
    ]


def _protocols(verified: PrecisionVerification) -> Iterator[tuple[bool, ProtocolFigures]]:
    """Each kind of prompt, and whether it is the first of its precision."""
    for index, protocol in enumerate(verified.figures.protocols):
        yield index == 0, protocol


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else f"{value:{form}}"
