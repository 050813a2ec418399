"""The contact sheet of near-duplicates."""

from pathlib import Path

from samus_edge.data.contact_sheet import CELL_PX, GAP_PX, LINE_PX, TITLE_PX
from samus_edge.data.dataset import list_cases
from samus_edge.data.group_sheet import draw_group_sheet


def test_groups_of_several_images_have_a_row_each(fake_busi: Path) -> None:
    cases = list_cases(fake_busi)
    groups = dict(zip((case.key for case in cases), (0, 0, 0, 1, 1, 2), strict=True))
    sheet = draw_group_sheet(cases, groups)
    height = 2 * (CELL_PX + GAP_PX + LINE_PX) + GAP_PX
    assert sheet.shape == (height, TITLE_PX + 3 * (CELL_PX + GAP_PX) + GAP_PX, 3)
    assert sheet[GAP_PX:CELL_PX, -CELL_PX:].max() > 200  # the third image of the larger group
    assert sheet[CELL_PX + LINE_PX + 3 * GAP_PX :, -CELL_PX:].max() < 30  # the smaller one has two


def test_classes_of_one_image_are_one_image(fake_us30k: Path) -> None:
    cases = list_cases(fake_us30k, ["Echo:1/e1", "Echo:2/e1"])
    sheet = draw_group_sheet(cases, {case.key: 0 for case in cases})
    assert sheet.shape[1] == TITLE_PX + GAP_PX  # no group of several images, so no cell
