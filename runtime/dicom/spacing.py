"""The size of pixels, as a DICOM file states it, and why it is not known where it is not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from samus_edge.runtime.dicom.pixel_pipeline import functional_group, number_of, numbers_of
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing
from samus_edge.runtime.notes import Note

if TYPE_CHECKING:
    from pydicom import Dataset

Box: TypeAlias = tuple[float, float, float, float]

_SPATIAL_2D = 1  # of Region Spatial Format
_TISSUE = 1  # of Region Data Type
_LOW_PRIORITY = 1  # bit of Region Flags
_CENTIMETRES = 3  # of Physical Units
_MM_PER_CM = 10.0
SHAPE_TOLERANCE = 0.01
"""Devices round what they store: sizes, and sides of a pixel, that differ by less are one."""
_PLAUSIBLE_MM = (0.005, 2.0)


@dataclass(frozen=True)
class UltrasoundRegion:
    """A part of the image.

    Source: DICOM PS3.3, C.8.5.5, US Region Calibration.

    Attributes:
        box: XYXY, pixels, both ends inside.
        is_2d: whether it is a two-dimensional image; else a spectrum, a curve, text.
        is_tissue: whether that shows tissue (B-mode); else flow or something else.
        spacing: size of its pixels; None where the file does not give it in centimetres.
        is_low_priority: whether another region counts where both overlap.
    """

    box: tuple[int, int, int, int]
    is_2d: bool
    is_tissue: bool
    spacing: PixelSpacing | None
    is_low_priority: bool = False

    def holds(self, box: Box) -> bool:
        """Whether a box, XYXY, lies in it; half a pixel may stick out."""
        x1, y1, x2, y2 = self.box
        return (
            box[0] >= x1 - 0.5 and box[1] >= y1 - 0.5 and box[2] <= x2 + 0.5 and box[3] <= y2 + 0.5
        )


def read_regions(dataset: "Dataset", frame_hw: tuple[int, int]) -> tuple[UltrasoundRegion, ...]:
    """The regions that a dataset lists.

    A region that is not inside the frame is left out: the image was scaled or cropped after it was
    made, and what the file says about sizes is not true any more.

    Args:
        dataset: of an image.
        frame_hw: (H, W), pixels.
    """
    found: list[UltrasoundRegion] = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        corners = [
            number_of(item, f"RegionLocation{name}")
            for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")
        ]
        if any(value is None for value in corners):
            continue
        x1, y1, x2, y2 = (int(value) for value in corners if value is not None)
        # The last pixel is inside; some devices write the number of pixels instead.
        if not (0 <= x1 < x2 <= frame_hw[1] and 0 <= y1 < y2 <= frame_hw[0]):
            continue
        found.append(
            UltrasoundRegion(
                (x1, y1, min(x2, frame_hw[1] - 1), min(y2, frame_hw[0] - 1)),
                number_of(item, "RegionSpatialFormat") == _SPATIAL_2D,
                number_of(item, "RegionDataType") == _TISSUE,
                _region_spacing(item),
                bool(int(number_of(item, "RegionFlags") or 0) & _LOW_PRIORITY),
            )
        )
    return tuple(found)


def _region_spacing(item: "Dataset") -> PixelSpacing | None:
    units = tuple(number_of(item, f"PhysicalUnits{axis}Direction") for axis in "XY")
    if units != (_CENTIMETRES, _CENTIMETRES):
        return None
    # A delta is negative where the axis points the other way.
    x, y = (number_of(item, f"PhysicalDelta{axis}") for axis in "XY")
    if not x or not y or not math.isfinite(x * y):
        return None
    return PixelSpacing(abs(y) * _MM_PER_CM, abs(x) * _MM_PER_CM, "ultrasound region")


class Scale:
    """The size of pixels in an image.

    In this order: the two-dimensional ultrasound region of the lesion, those of tissue before those
    of flow; Pixel Measures of an enhanced image; Pixel Spacing. Where a file lists regions, nothing
    else counts for what lies outside them. Pixel Aspect Ratio gives the shape of pixels alone.

    Args:
        dataset: of an image.
        regions: of `read_regions`.
        frames: number of frames.
    """

    def __init__(
        self, dataset: "Dataset", regions: Sequence[UltrasoundRegion], frames: int
    ) -> None:
        self._regions = regions
        self._lists_regions = bool(dataset.get("SequenceOfUltrasoundRegions"))
        own = frames if "PerFrameFunctionalGroupsSequence" in dataset else 1
        measures = [
            _pair(None if item is None else item.get("PixelSpacing"), "PixelMeasures")
            for item in (
                functional_group(dataset, frame, "PixelMeasuresSequence") for frame in range(own)
            )
        ]
        self._measures_differ = any(not _agree(measures[0], each) for each in measures[1:])
        self._plain = measures[0] or _pair(dataset.get("PixelSpacing"), "PixelSpacing")
        ratio = numbers_of(dataset.get("PixelAspectRatio"))
        self._aspect = 1.0
        if len(ratio) == 2 and min(ratio) > 0:
            self._aspect = ratio[0] / ratio[1]

    def find(self, box: Box) -> tuple[PixelSpacing | None, tuple[Note, ...]]:
        """The size of pixels in a box, XYXY, and what is to be said of it.

        Returns:
            None where neither size nor shape of the pixels is known.
        """
        if self._lists_regions:
            found, notes = self._of_regions(box)
        elif self._measures_differ:
            found, notes = None, [_unknown("the frames have pixels of different sizes")]
        else:
            found = self._plain
            notes = (
                []
                if found
                else [_unknown("it has neither ultrasound regions nor a usable Pixel Spacing")]
            )
        if found is None:
            if abs(self._aspect - 1) <= SHAPE_TOLERANCE:
                return None, tuple(notes)
            shape = PixelSpacing(self._aspect, 1.0, "PixelAspectRatio", unit="px")
            return shape, (*notes, shape_note(shape))
        notes += plausibility_notes(found)
        shape = PixelSpacing(self._aspect * found.column_mm, found.column_mm, "PixelAspectRatio")
        if self._aspect != 1 and not _agree(shape, found):
            notes.append(_contradiction(shape, found))
        return found, tuple(notes)

    def _of_regions(self, box: Box) -> tuple[PixelSpacing | None, list[Note]]:
        around = [region for region in self._regions if region.is_2d and region.holds(box)]
        if not around:
            why = "no two-dimensional ultrasound region of the file holds all of it"
            return None, [_unknown(why)]
        sized = [region for region in around if region.spacing is not None]
        if not sized:
            return None, [_unknown("its ultrasound region gives no size of pixels in centimetres")]
        # Tissue first; among equals those that the file gives priority where they overlap.
        ranks = [(not region.is_tissue, region.is_low_priority) for region in sized]
        best = [region for region, rank in zip(sized, ranks, strict=True) if rank == min(ranks)]
        found = best[0].spacing
        assert found is not None
        for region in best[1:]:
            if not _agree(region.spacing, found):
                why = "ultrasound regions that hold it state different sizes of a pixel"
                return None, [_unknown(why)]
        others = [region.spacing for region in sized] + [self._plain]
        return found, [_contradiction(each, found) for each in others if not _agree(each, found)][
            :1
        ]


def plausibility_notes(spacing: PixelSpacing) -> tuple[Note, ...]:
    """Whether no scanner has pixels of such a size."""
    low, high = _PLAUSIBLE_MM
    sides = (spacing.row_mm, spacing.column_mm)
    if spacing.unit == "px" or low <= min(sides) <= max(sides) <= high:
        return ()
    name = "the spacing that was given" if spacing.source == "given" else spacing.source
    text = (
        f"{name[0].upper()}{name[1:]} says that a pixel has {spacing.column_mm:g} x "
        f"{spacing.row_mm:g} mm, outside {low:g} to {high:g} mm; sizes are probably wrong."
    )
    return (Note("spacing_implausible", "warning", text),)


def shape_note(shape: PixelSpacing) -> Note:
    """What a user should know where only the shape of pixels is known, and it is not square."""
    text = (
        f"A pixel is {shape.row_mm:.4g} times as high as wide ({shape.source}). Sizes are in "
        "widths of a pixel; angles and ratios are those of the lesion. A spacing that is given "
        "counts instead, so give it as row,column."
    )
    return Note("pixels_not_square", "info", text)


def _pair(value: Any, source: str) -> PixelSpacing | None:
    numbers = numbers_of(value)
    if len(numbers) != 2 or min(numbers) <= 0:
        return None
    return PixelSpacing(numbers[0], numbers[1], source)


def _agree(first: PixelSpacing | None, second: PixelSpacing | None) -> bool:
    """Whether two sizes are one; an unknown one agrees with all."""
    if first is None or second is None:
        return True
    return math.isclose(first.row_mm, second.row_mm, rel_tol=SHAPE_TOLERANCE) and math.isclose(
        first.column_mm, second.column_mm, rel_tol=SHAPE_TOLERANCE
    )


def _unknown(why: str) -> Note:
    return Note(
        "spacing_unknown",
        "warning",
        f"The size of pixels is not known: {why}. Sizes are in pixels; give the spacing to have "
        "them in mm.",
    )


def _contradiction(other: PixelSpacing | None, taken: PixelSpacing) -> Note:
    assert other is not None
    name = f"another {other.source}" if other.source == taken.source else other.source
    return Note(
        "spacing_contradiction",
        "warning",
        f"{name[0].upper()}{name[1:]} says that a pixel has {other.column_mm:g} x "
        f"{other.row_mm:g} mm, {taken.source} {taken.column_mm:g} x {taken.row_mm:g} mm; the "
        "latter was taken.",
    )
