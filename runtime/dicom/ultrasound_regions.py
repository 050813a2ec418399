"""The regions of an ultrasound image, and how large their pixels are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samus_edge.runtime.measurement.pixel_spacing import PixelSpacing

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["UltrasoundRegion", "read_regions", "spacing_in_box"]

_SPATIAL_2D = 1  # of Region Spatial Format
_TISSUE = 1  # of Region Data Type
_CENTIMETRES = 3  # of Physical Units
_MM_PER_CM = 10.0


@dataclass(frozen=True)
class UltrasoundRegion:
    """A part of the image.

    Source: DICOM PS3.3, C.8.5.5, US Region Calibration.

    Attributes:
        box: XYXY, pixels, both ends inside.
        is_2d: whether it is a two-dimensional image; else a spectrum, a curve, text.
        is_tissue: whether that shows tissue (B-mode); else flow or something else.
        spacing: size of its pixels; None where the file does not give it in centimetres.
    """

    box: tuple[int, int, int, int]
    is_2d: bool
    is_tissue: bool
    spacing: PixelSpacing | None

    def holds(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a box, XYXY, lies in it; half a pixel may stick out."""
        x1, y1, x2, y2 = self.box
        return (
            box[0] >= x1 - 0.5 and box[1] >= y1 - 0.5 and box[2] <= x2 + 0.5 and box[3] <= y2 + 0.5
        )


def read_regions(dataset: "Dataset", frame_hw: tuple[int, int]) -> tuple[UltrasoundRegion, ...]:
    """The regions that a dataset lists.

    A region that is not inside the frame is left out: the image was scaled or cropped after it was made, and what
    the file says about sizes is not true any more.

    Args:
        dataset: of an image.
        frame_hw: (H, W), pixels.
    """
    found: list[UltrasoundRegion] = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        corners = [
            _number(item, f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")
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
                _number(item, "RegionSpatialFormat") == _SPATIAL_2D,
                _number(item, "RegionDataType") == _TISSUE,
                _spacing(item),
            )
        )
    return tuple(found)


def spacing_in_box(
    regions: Sequence[UltrasoundRegion], box: tuple[float, float, float, float]
) -> PixelSpacing | None:
    """The size of pixels in a box, XYXY.

    Returns:
        That of the two-dimensional regions that hold all of the box; None if there is none, or they do not agree.
    """
    spacings = {region.spacing for region in regions if region.is_2d and region.holds(box)}
    return spacings.pop() if len(spacings) == 1 else None


def _spacing(item: "Dataset") -> PixelSpacing | None:
    units = (_number(item, "PhysicalUnitsXDirection"), _number(item, "PhysicalUnitsYDirection"))
    if units != (_CENTIMETRES, _CENTIMETRES):
        return None
    # A delta is negative where the axis points the other way.
    x, y = (_number(item, name) for name in ("PhysicalDeltaX", "PhysicalDeltaY"))
    if not x or not y or not math.isfinite(x * y):
        return None
    return PixelSpacing(row_mm=abs(y) * _MM_PER_CM, column_mm=abs(x) * _MM_PER_CM)


def _number(item: "Dataset", keyword: str) -> float | None:
    """A value that hostile files may hold as anything."""
    value: Any = item.get(keyword)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
