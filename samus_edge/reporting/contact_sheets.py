"""A contact sheet: one picture of many small images in titled rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError

CELL_PX: Final = 160
GAP_PX: Final = 4
TITLE_PX: Final = 250
LINE_PX: Final = 18
BACKGROUND: Final = 24
TEXT: Final = (240, 240, 240)
OUTLINE: Final = (255, 214, 0)
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE: Final = 0.45
_CAPTION_SCALE: Final = 0.35

Canvas = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SheetCell:
    """One image.

    Attributes:
        image: (H, W), uint8, grey.
        masks: (h, w), bool, of any size over the same field of view; outlined.
        caption: one line below the image.
    """

    image: npt.NDArray[np.uint8]
    masks: Sequence[npt.NDArray[np.bool_]] = ()
    caption: str = ""


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One row.

    Attributes:
        title: lines beside the row.
        cells: its images, left to right.
    """

    title: Sequence[str]
    cells: Sequence[SheetCell]


def draw_contact_sheet(rows: Sequence[SheetRow], cell_px: int = CELL_PX) -> Canvas:
    """Draw rows of images, each fitted into a square cell with its aspect kept.

    Args:
        rows: at least one; they may differ in length.
        cell_px: side of a cell, pixels.

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        BadArgumentError: if there is no row.
    """
    if not rows:
        raise BadArgumentError("rows must hold at least one row, got none.")
    captioned = any(cell.caption for row in rows for cell in row.cells)
    step_x, step_y = cell_px + GAP_PX, cell_px + GAP_PX + captioned * LINE_PX
    columns = max(len(row.cells) for row in rows)
    canvas: Canvas = np.full(
        (len(rows) * step_y + GAP_PX, TITLE_PX + columns * step_x + GAP_PX, 3), BACKGROUND, np.uint8
    )
    for number, row in enumerate(rows):
        top = GAP_PX + number * step_y
        for line, text in enumerate(row.title):
            _put_text(canvas, text, (GAP_PX, top + (line + 1) * LINE_PX), _FONT_SCALE)
        for column, cell in enumerate(row.cells):
            left = TITLE_PX + column * step_x
            canvas[top : top + cell_px, left : left + cell_px] = _draw_cell(cell, cell_px)
            if cell.caption:
                _put_text(canvas, cell.caption, (left, top + cell_px + 13), _CAPTION_SCALE)
    return canvas


def _draw_cell(cell: SheetCell, cell_px: int) -> Canvas:
    height, width = cell.image.shape
    factor = cell_px / max(height, width)
    size_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    small = cv2.resize(cell.image, size_wh, interpolation=interpolation)
    drawn: Canvas = np.repeat(np.asarray(small, np.uint8)[..., None], 3, axis=2)
    for mask in cell.masks:
        fitted = cv2.resize(mask.astype(np.uint8) * 255, size_wh, interpolation=cv2.INTER_LINEAR)
        inside = (np.asarray(fitted) > 127).astype(np.uint8)
        contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, OUTLINE, 1)
    result: Canvas = np.zeros((cell_px, cell_px, 3), np.uint8)
    top, left = (cell_px - size_wh[1]) // 2, (cell_px - size_wh[0]) // 2
    result[top : top + size_wh[1], left : left + size_wh[0]] = drawn
    return result


def _put_text(canvas: Canvas, text: str, origin: tuple[int, int], scale: float) -> None:
    cv2.putText(canvas, text, origin, _FONT, scale, TEXT, 1, cv2.LINE_AA)
