"""Contact sheets: where images land, and what is outlined."""

import numpy as np
import pytest

from samus_edge.reporting.contact_sheets import (
    GAP_PX,
    OUTLINE,
    TITLE_PX,
    SheetCell,
    SheetRow,
    draw_contact_sheet,
)

CELL = 40


def test_images_are_fitted_into_their_cells_with_their_aspect() -> None:
    wide, high = np.full((10, 20), 200, np.uint8), np.full((80, 20), 100, np.uint8)
    sheet = draw_contact_sheet([SheetRow(["a"], [SheetCell(wide), SheetCell(high)])], CELL)
    assert sheet.shape == (CELL + 2 * GAP_PX, TITLE_PX + 2 * (CELL + GAP_PX) + GAP_PX, 3)
    cells = sheet[GAP_PX : GAP_PX + CELL, TITLE_PX:, 0]
    # 20x10 becomes 40x20 with black above and below; 20x80 becomes 10x40 with black beside
    assert (cells[10:30, :CELL] == 200).all() and not cells[:10, :CELL].any()
    second = cells[:, CELL + GAP_PX : 2 * CELL + GAP_PX]
    assert (second[:, 15:25] == 100).all() and not second[:, :15].any()


def test_masks_are_outlined_and_titles_written() -> None:
    mask = np.zeros((CELL, CELL), dtype=np.bool_)
    mask[10:20, 10:30] = True
    cell = SheetCell(np.full((CELL, CELL), 50, np.uint8), [mask])
    sheet = draw_contact_sheet([SheetRow([], [cell]), SheetRow(["title"], [])], CELL)
    area = sheet[GAP_PX : GAP_PX + CELL, TITLE_PX : TITLE_PX + CELL]
    outlined = (area == OUTLINE).all(axis=-1)
    edge = mask.copy()
    edge[11:19, 11:29] = False
    np.testing.assert_array_equal(outlined, edge)
    titles = sheet[:, :TITLE_PX]
    assert len(np.unique(titles[: GAP_PX + CELL])) == 1  # no title
    assert titles[GAP_PX + CELL :].max() > 200


def test_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        draw_contact_sheet([])
