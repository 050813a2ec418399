"""The contact sheet of near-duplicates."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from samus_edge.data.augmentation import AugmentationConfig, augment_appearance, augment_geometry
from samus_edge.data.case import read_image
from samus_edge.data.dataset import list_cases
from samus_edge.data.sheets import (
    AUGMENTATION_CELL_PX,
    AUGMENTATIONS,
    DRAWS,
    draw_augmentation_sheet,
    draw_group_sheet,
    only,
)
from samus_edge.reporting.contact_sheets import CELL_PX, GAP_PX, LINE_PX, TITLE_PX


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


def test_every_field_of_the_configuration_belongs_to_one_row() -> None:
    listed = [name for names in AUGMENTATIONS.values() for name in names]
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(AugmentationConfig))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_row_changes_the_frame_by_its_own_augmentation_alone(
    name: str, fake_busi: Path
) -> None:
    image = read_image(list_cases(fake_busi)[0])
    config = AugmentationConfig()

    def augmented(strengths: AugmentationConfig) -> tuple[bool, bool]:
        rng = np.random.default_rng(0)
        frame, _ = augment_geometry(image, [], strengths, rng, 32)
        changed = augment_appearance(frame, strengths, rng)
        return not np.array_equal(frame, image), not np.array_equal(changed, frame)

    geometric = list(AUGMENTATIONS).index(name) <= list(AUGMENTATIONS).index("elastic")
    geometric = geometric or name == "resolution"
    assert augmented(only(config, name)) == (geometric, not geometric)
    off = {field: 0.0 for field in AUGMENTATIONS[name] if field != "min_resolution"}
    assert augmented(dataclasses.replace(only(config, name), **off)) == (False, False)


def test_the_sheet_has_a_row_for_each_and_one_for_all(fake_busi: Path) -> None:
    cases = list_cases(fake_busi)[:2]
    sheet = draw_augmentation_sheet(cases, AugmentationConfig(), seed=3)
    rows, columns = len(AUGMENTATIONS) + 1, 2 * (1 + DRAWS)
    step = AUGMENTATION_CELL_PX + GAP_PX
    assert sheet.shape == (rows * step + GAP_PX, TITLE_PX + columns * step + GAP_PX, 3)
    assert np.array_equal(draw_augmentation_sheet(cases, AugmentationConfig(), seed=3), sheet)
    other = draw_augmentation_sheet(cases, AugmentationConfig(), seed=4)
    assert not np.array_equal(other, sheet)
    originals = slice(TITLE_PX, TITLE_PX + AUGMENTATION_CELL_PX)
    assert np.array_equal(other[:, originals], sheet[:, originals])


def test_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        draw_augmentation_sheet([], AugmentationConfig())
