"""A contact sheet of the groups of near-duplicates, to be looked at before they are trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.augmentation import AugmentationConfig, augment_appearance, augment_geometry
from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.errors import BadArgumentError
from samus_edge.reporting.contact_sheets import SheetCell, SheetRow, draw_contact_sheet

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


AUGMENTATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "rotation": ("rotation_deg",),
    "zoom": ("log_scale",),
    "stretch": ("log_aspect",),
    "shift": ("translation",),
    "mirror": ("flip_probability",),
    "elastic": ("elastic_probability", "elastic_displacement"),
    "gamma": ("log_gamma",),
    "gain": ("log_gain",),
    "offset": ("offset",),
    "attenuation": ("attenuation_probability",),
    "shadow": ("shadow_probability",),
    "speckle": ("speckle_probability", "speckle_sigma"),
    "blur": ("blur_probability", "blur_sigma_px"),
    "resolution": ("resolution_probability", "min_resolution"),
}
"""Fields of `AugmentationConfig` by the name of the augmentation that they control."""

AUGMENTATION_CELL_PX: Final = 256
"""Side of a frame on the sheet: what the model sees, so that speckle and blur can be judged."""

DRAWS: Final = 3
"""Draws of each frame in each row, beside the frame itself."""

_UNCHANGED: Final = {"min_resolution": 1.0}
"""Values that change nothing, where they are not 0."""


def only(config: AugmentationConfig, name: str) -> AugmentationConfig:
    """One augmentation alone, always applied, as strong as configured.

    Args:
        config: strengths.
        name: one of `AUGMENTATIONS`.
    """
    quiet = {field.name: _UNCHANGED.get(field.name, 0.0) for field in fields(config)}
    kept = {
        field: 1.0 if field.endswith("_probability") else getattr(config, field)
        for field in AUGMENTATIONS[name]
    }
    return replace(config, **(quiet | kept))


def draw_augmentation_sheet(
    cases: Sequence[UltrasoundCase], config: AugmentationConfig, *, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Draw one row for each augmentation alone and one for all together, lesions outlined.

    Args:
        cases: frames, best two or three; each gives one column as it is and `DRAWS` augmented.
        config: strengths. A probability of 0 switches its row off, but still draws it, as 1 does.
        seed: seed of all draws.

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        DataError: if a case is broken.
        BadArgumentError: if there is no case.
    """
    if not cases:
        raise BadArgumentError("cases must hold at least one case, got none.")
    frames = [(read_image(case), read_instances(case)) for case in cases]
    rows = []
    for row, (title, strengths) in enumerate(_rows(config)):
        cells: list[SheetCell] = []
        for column, (image, masks) in enumerate(frames):
            cells.append(SheetCell(image, masks))
            for draw in range(DRAWS):
                rng = np.random.default_rng((seed, row, column, draw))
                frame, warped = augment_geometry(image, masks, strengths, rng, AUGMENTATION_CELL_PX)
                cells.append(SheetCell(augment_appearance(frame, strengths, rng), warped))
        rows.append(SheetRow(title, cells))
    return draw_contact_sheet(rows, AUGMENTATION_CELL_PX)


def _rows(config: AugmentationConfig) -> list[tuple[list[str], AugmentationConfig]]:
    """Title and strengths of each row."""
    rows = []
    for name, names in AUGMENTATIONS.items():
        title = [name, *(f"  {field} {getattr(config, field):g}" for field in names)]
        rows.append((title, only(config, name)))
    return [*rows, (["all together", "  with their probabilities"], config)]
