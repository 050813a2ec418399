"""Text for overlays: a legend below a picture, and numbers on it."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

# (H, W, 3), uint8, RGB.
Canvas: TypeAlias = npt.NDArray[np.uint8]
Colour: TypeAlias = tuple[int, int, int]

_FONT = 0  # cv2.FONT_HERSHEY_SIMPLEX, which is not imported before it is needed
_BACKGROUND: Colour = (24, 24, 24)
_TEXT: Colour = (240, 240, 240)
_NOTE: Colour = (176, 176, 176)
_MIN_TEXT_PX = 11
# More masks than this are summed up in one line.
_MAX_LINES = 16


def text_height_px(size_wh: tuple[int, int]) -> int:
    """Height of a capital letter for a picture of this size, pixels."""
    width, height = size_wh
    # By area: by the longer side, a strip would have letters taller than itself.
    return max(_MIN_TEXT_PX, round(math.sqrt(width * height) / 68))


def draw_legend(
    canvas: Canvas,
    lines: Sequence[tuple[Colour, str]],
    notes: Sequence[str],
    text_px: int,
) -> Canvas:
    """Put a legend below a picture.

    Args:
        canvas: (H, W, 3), uint8, RGB.
        lines: colour of the swatch and text of each entry.
        notes: lines without a swatch.
        text_px: height of a capital letter, pixels.

    Returns:
        (H + h, max(W, w), 3), uint8, RGB; a narrower picture is centred.
    """
    import cv2

    shown = list(lines[:_MAX_LINES])
    notes = list(notes)
    if len(lines) > len(shown):
        notes.insert(0, f"and {len(lines) - len(shown)} more masks")
    margin = text_px
    line_px = 2 * text_px
    text_left = margin + 2 * text_px  # right of the swatch
    widths = [text_left + _text_width(text, text_px) for _, text in shown]
    widths += [margin + _text_width(note, text_px) for note in notes]
    height, width = canvas.shape[:2]
    legend_height = line_px * (len(shown) + len(notes)) + margin
    full_width = max([width, *(text_width + margin for text_width in widths)])
    result: Canvas = np.empty((height + legend_height, full_width, 3), np.uint8)
    result[:] = _BACKGROUND
    left = (full_width - width) // 2
    result[:height, left : left + width] = canvas
    baseline = height + margin // 2 + (line_px + text_px) // 2
    for colour, text in shown:
        swatch_top_left = (margin, baseline - text_px)
        cv2.rectangle(result, swatch_top_left, (margin + text_px, baseline), colour, -1)
        _put_text(result, text, (text_left, baseline), _TEXT, text_px)
        baseline += line_px
    for note in notes:
        _put_text(result, note, (margin, baseline), _NOTE, text_px)
        baseline += line_px
    return result


def draw_tag(
    canvas: Canvas, text: str, anchor: tuple[int, int], colour: Colour, text_px: int
) -> None:
    """Write a short text on a dark plate, up and left of a point, moved to stay on the picture.

    Args:
        canvas: (H, W, 3), uint8, RGB; drawn on.
        text: a few characters.
        anchor: (x, y), pixels of the canvas: the plate's lower right corner.
        colour: of the text.
        text_px: height of a capital letter, pixels.
    """
    import cv2

    height, width = canvas.shape[:2]
    pad = max(2, text_px // 3)
    plate_width = _text_width(text, text_px) + 2 * pad
    plate_height = text_px + 2 * pad
    left = max(0, min(anchor[0] - plate_width, width - plate_width))
    top = max(0, min(anchor[1] - plate_height, height - plate_height))
    bottom_right = (left + plate_width - 1, top + plate_height - 1)
    cv2.rectangle(canvas, (left, top), bottom_right, _BACKGROUND, -1)
    _put_text(canvas, text, (left + pad, top + pad + text_px), colour, text_px)


def _font_scale(text_px: int) -> float:
    import cv2

    (_, unit_px), _ = cv2.getTextSize("X", _FONT, 1.0, 1)
    return text_px / unit_px


def _thickness(text_px: int) -> int:
    return max(1, text_px // 12)


def _text_width(text: str, text_px: int) -> int:
    import cv2

    (width, _), _ = cv2.getTextSize(_ascii(text), _FONT, _font_scale(text_px), _thickness(text_px))
    return width


def _put_text(
    canvas: Canvas, text: str, baseline_left: tuple[int, int], colour: Colour, text_px: int
) -> None:
    import cv2

    scale, thickness = _font_scale(text_px), _thickness(text_px)
    cv2.putText(canvas, _ascii(text), baseline_left, _FONT, scale, colour, thickness, cv2.LINE_AA)


def _ascii(text: str) -> str:
    """With "?" for what OpenCV 4's fonts have not."""
    return text.encode("ascii", "replace").decode()
