"""A verification as one HTML file: verdict, limits, figures, and the masks that agree least."""

from collections.abc import Mapping, Sequence

import numpy as np

from samus_edge.data.prompt_protocol import Prompt
from samus_edge.evaluation.metrics import Mask
from samus_edge.evaluation.worst_cases import prompted_item
from samus_edge.reporting.html import render_page
from samus_edge.runtime.images.canvas import Canvas
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay
from samus_edge.verification.gates import FASTER_BELOW
from samus_edge.verification.session import Disagreement
from samus_edge.verification.verify_bundle import VerificationResult

MARGIN = 0.3
"""What is shown around the masks, as a fraction of their box."""
MIN_MARGIN_PX = 12
MIN_SIDE = 0.7
"""Shorter side of what is shown, as a fraction of the longer: a strip would be drawn too small."""


def render_verification(result: VerificationResult, details: Mapping[str, str]) -> str:
    """Render a verification.

    Args:
        result: the verification, with its worst disagreements where it has any.
        details: lines of the header besides ``result.about``, such as the command.

    Returns:
        An HTML document that needs nothing else.
    """
    verified = result.precisions
    disagreements: dict[str, list[tuple[str, Canvas]]] = {}
    for each in result.disagreements:
        drawn = (each.caption, draw_disagreement(each))
        disagreements.setdefault(each.precision, []).append(drawn)
    values = {
        "result": result,
        "header": {"bundle": result.bundle, **result.about, **details},
        "gates": {o.name: o.gate for each in verified for o in each.outcomes}.values(),
        "has_dice": any(
            figures.dice is not None for each in verified for figures in each.figures.protocols
        ),
        "has_others": any(
            each.figures.protocols and not each.figures.is_reference for each in verified
        ),
        "faster_below": FASTER_BELOW,
        "disagreements": disagreements,
        "has_truth": any(each.target is not None for each in result.disagreements),
        "hashes": {
            f"{each.precision} {kind}": sha256
            for each in verified
            for kind, sha256 in each.graphs.items()
        },
    }
    return render_page("verification.html", values)


def draw_disagreement(disagreement: Disagreement) -> Canvas:
    """Draw the masks' outlines on the part of the image that they are in.

    Returns:
        (h, w, 3), uint8, RGB; see `samus_edge.runtime.images.overlay.draw_overlay`.
    """
    named = {"reference": disagreement.reference_mask, disagreement.precision: disagreement.mask}
    if disagreement.target is not None:
        named = {"truth": disagreement.target, **named}
    prompt = disagreement.prompt
    rows, columns = _part(list(named.values()), prompt, disagreement.image.shape)
    items = []
    for name, mask in named.items():
        items.append(OverlayItem(mask[rows, columns], name if mask.any() else f"{name}: empty"))
    # The prompt has no mask of its own; the last item carries it, which is drawn on top.
    last, origin_xy = items.pop(), (columns.start, rows.start)
    items.append(prompted_item(last.mask, last.caption, prompt, origin_xy))
    return draw_overlay(np.ascontiguousarray(disagreement.image[rows, columns]), items)


def _part(masks: Sequence[Mask], prompt: Prompt, hw: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns that hold all masks and the prompt, with a margin."""
    height, width = hw
    any_mask = np.logical_or.reduce(masks)
    xy = [np.argwhere(any_mask)[:, ::-1].astype(np.float64), prompt.points.astype(np.float64)]
    if prompt.box is not None:
        xy.append(prompt.box.reshape(2, 2).astype(np.float64))
    coords = np.concatenate(xy)  # (points, 2)
    low, high = coords.min(axis=0), coords.max(axis=0)
    margin = np.maximum((high - low) * MARGIN, MIN_MARGIN_PX)
    side = high - low + 2 * margin
    margin += np.maximum(MIN_SIDE * side.max() - side, 0) / 2
    left, top = np.maximum(np.floor(low - margin), 0).astype(int).tolist()
    right, bottom = np.ceil(high + margin + 1).astype(int).tolist()
    return slice(top, min(bottom, height)), slice(left, min(right, width))
