"""A contact sheet of the groups of near-duplicates, to be looked at before they are trusted."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, read_image
from samus_edge.data.contact_sheet import SheetCell, SheetRow, draw_contact_sheet

__all__ = ["draw_group_sheet"]

MAX_ROWS: Final = 150
"""Larger groups first; the sheet has about 180 pixels per row."""
MAX_CELLS: Final = 8
_CAPTION_CHARACTERS: Final = 22


def draw_group_sheet(
    cases: Sequence[UltrasoundCase], groups: Mapping[str, int]
) -> npt.NDArray[np.uint8]:
    """Draw the groups of two images or more, one row each, largest first.

    Args:
        cases: the cases.
        groups: group number of each case key.

    Returns:
        (H, W, 3), uint8, RGB. Of more than 150 groups, and of more than 8 images of a group, the
        titles say how many are not shown.

    Raises:
        DataError: if an image is broken.
    """
    members: dict[int, dict[object, UltrasoundCase]] = {}
    for case in cases:  # an image once, whatever its number of classes
        members.setdefault(groups[case.key], {}).setdefault(case.image_path, case)
    several = [list(group.values()) for group in members.values() if len(group) > 1]
    several.sort(key=len, reverse=True)
    rows = [_row(group) for group in several[:MAX_ROWS]]
    hidden = len(several) - len(rows)
    if hidden or not rows:
        rows.append(SheetRow([f"{hidden} more groups" if rows else "no near-duplicates"], []))
    return draw_contact_sheet(rows)


def _row(group: Sequence[UltrasoundCase]) -> SheetRow:
    title = [f"{len(group)} images", *sorted({case.class_name for case in group})]
    if len(group) > MAX_CELLS:
        title.append(f"first {MAX_CELLS} shown")
    cells = [
        SheetCell(read_image(case), caption=case.key.rpartition("/")[2][-_CAPTION_CHARACTERS:])
        for case in group[:MAX_CELLS]
    ]
    return SheetRow(title, cells)
