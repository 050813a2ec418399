"""What is measured of a lesion, from its mask."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.measurement.callipers import Points, callipers_of


def box_around(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The smallest box around a mask.

    Args:
        mask: (H, W), bool.

    Returns:
        XYXY, pixel centres, both ends inside; None for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


# Of the moving average that takes the stairs out of an outline: points to either side.
_HALF_WINDOW = 2
_POINTS_TO_SMOOTH = 12  # for each of them; a few pixels would shrink to a point


def outline_length(region: npt.NDArray[np.bool_], scale_xy: tuple[float, float]) -> float:
    """Length of a region's outer outline.

    The outline goes through the middles of pixel sides. Its stairs are longer than what they stand
    for, so it is smoothed by a moving average of five points first.

    Args:
        region: (H, W), one component.
        scale_xy: size of a pixel across and down.

    Returns:
        In the unit of the scale.
    """
    points = _side_middles(region) * np.asarray(scale_xy)
    half_window = min(_HALF_WINDOW, len(points) // _POINTS_TO_SMOOTH)
    smooth = points.copy()
    for shift in range(1, half_window + 1):
        smooth += np.roll(points, shift, axis=0) + np.roll(points, -shift, axis=0)
    smooth /= 2 * half_window + 1
    return float(np.linalg.norm(np.diff(smooth, axis=0, append=smooth[:1]), axis=1).sum())


def _side_middles(region: npt.NDArray[np.bool_]) -> Points:
    """The middles of the sides between a region and what is around it, in order around it."""
    import cv2

    # Twice as large, with an arm of each pixel towards its neighbours: the contour then passes the
    # ends of all arms that reach out of the region.
    height, width = region.shape
    inside = np.pad(region, 1)
    is_deep = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    arms = np.zeros((2 * height + 3, 2 * width + 3), np.uint8)
    rows, columns = np.nonzero(region & ~is_deep)
    for down, across in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
        arms[2 * rows + 2 + down, 2 * columns + 2 + across] = 1
    contours, _ = cv2.findContours(arms, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    x, y = max(contours, key=len).reshape(-1, 2).T - 2  # a pixel's centre has even numbers
    # Of an arm's end, the pixels on either side; one of them is outside.
    first = inside[y // 2 + 1, x // 2 + 1]
    second = inside[-(-y // 2) + 1, -(-x // 2) + 1]
    is_side = ((x + y) % 2 == 1) & (first != second)
    return np.stack([x[is_side], y[is_side]], axis=1) / 2


@dataclass(frozen=True)
class PixelSpacing:
    """Distance between the centres of neighbouring pixels.

    Attributes:
        row_mm: from a row to the next, down the image, mm.
        column_mm: from a column to the next, across the image, mm.
        source: where the numbers come from, such as "PixelSpacing"; for people, not compared.
        unit: "px" where only the shape of pixels is known: then both numbers are in widths of a
            pixel, not in mm.

    Raises:
        BadArgumentError: if one is not a positive number.
    """

    row_mm: float
    column_mm: float
    source: str = field(default="given", compare=False)
    unit: Literal["mm", "px"] = "mm"

    def __post_init__(self) -> None:
        for value in (self.row_mm, self.column_mm):
            if not (math.isfinite(value) and value > 0):
                raise BadArgumentError(
                    "the spacing of pixels must be two positive numbers in mm, got "
                    f"{self.row_mm:g} and "
                    f"{self.column_mm:g}."
                )

    def to_json(self) -> dict[str, float | str]:
        """As a JSON object: one pixel down and across, in `unit`."""
        return {
            "row": self.row_mm,
            "column": self.column_mm,
            "unit": self.unit,
            "source": self.source,
        }

    @staticmethod
    def square(mm: float) -> "PixelSpacing":
        """The same in both directions."""
        return PixelSpacing(mm, mm)


_MAX_LOCATION_MM = 500


@dataclass(frozen=True)
class BreastLocation:
    """Where in the breast a lesion is, as the examiner says: nothing of it is computed.

    Attributes:
        side: "left" or "right" breast.
        clock: hour of the clock face that one sees when looking at the breast, 1 to 12.
        nipple_mm: distance from the nipple, mm.
        depth_mm: distance from the skin, mm.

    Raises:
        BadArgumentError: if nothing is said, or a value is out of its range.
    """

    side: str | None = None
    clock: int | None = None
    nipple_mm: float | None = None
    depth_mm: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.side is not None and self.side not in ("left", "right"):
            problems.append(f"the side must be left or right, got {self.side!r}")
        if self.clock is not None and self.clock not in range(1, 13):
            problems.append(f"the hour of the clock face must be 1 to 12, got {self.clock}")
        for value, name in ((self.nipple_mm, "distance from the nipple"), (self.depth_mm, "depth")):
            if value is not None and not 0 <= value <= _MAX_LOCATION_MM:
                problems.append(f"the {name} must be 0 to {_MAX_LOCATION_MM} mm, got {value:g}")
        if problems:
            raise BadArgumentError(f"{'; '.join(problems)}.")
        if all(value is None for value in asdict(self).values()):
            raise BadArgumentError("a location needs a side, an hour, a distance or a depth.")

    def __str__(self) -> str:
        parts = (
            (self.side, f"{self.side} breast"),
            (self.clock, f"{self.clock} o'clock"),
            (self.nipple_mm, f"{self.nipple_mm or 0:g} mm from the nipple"),
            (self.depth_mm, f"{self.depth_mm or 0:g} mm deep"),
        )
        return ", ".join(text for value, text in parts if value is not None)


Orientation: TypeAlias = Literal["parallel", "not parallel", "undetermined"]
_PARALLEL_DEG = 45 + 1e-6
_ROUND = 0.9
_DIGITS = 3


@dataclass(frozen=True)
class Diameter:
    """A straight line across a lesion.

    Attributes:
        length: in the unit of the measurements.
        start: (x, y), pixels of the image, pixel centres at integers.
        end: the other end.
    """

    length: float
    start: tuple[float, float]
    end: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "length": round(self.length, _DIGITS),
            "start": [round(value, 2) for value in self.start],
            "end": [round(value, 2) for value in self.end],
        }


@dataclass(frozen=True)
class LesionMeasurements:
    """Sizes of the largest component of a mask.

    A pixel is a square: a bar of w pixels is w pixels long.

    Attributes:
        unit: "mm" where the spacing of pixels is known, else "px".
        area: of the component without its holes, in the unit squared.
        hole_area: enclosed by it.
        perimeter: of its outer outline.
        longest: the longest axis, the longest straight line that is inside all along.
        perpendicular: the longest line inside that crosses the longest axis at a right angle.
        longest_at_most: a bound for all lines inside; greater than the length of `longest` only
            where the mask is so ragged that the search for it was cut short.
        width: extent along the image's rows, parallel to the skin.
        height: extent along the image's columns, away from the skin.
        equivalent_diameter: of the disc with the same area.
        centroid: (x, y), pixels of the image.
        components: number of separate parts of the mask; pixels that touch at corners are together.
        other_area: of the other parts.
        cut_by: sides of the frame that the lesion touches, of "left", "top", "right", "bottom";
            then it may go on outside, and its sizes are lower bounds.
        spacing: size or shape of a pixel that was used, with its source; None for square ones of
            unknown size.
        location: where the lesion is, as it was given.
    """

    unit: str
    area: float
    hole_area: float
    perimeter: float
    longest: Diameter
    perpendicular: Diameter
    longest_at_most: float
    width: float
    height: float
    equivalent_diameter: float
    centroid: tuple[float, float]
    components: int
    other_area: float
    cut_by: tuple[str, ...]
    spacing: PixelSpacing | None
    location: BreastLocation | None = None

    @property
    def angle_deg(self) -> float:
        """Of the longest axis to the image's rows, above -90 to 90 degrees.

        Positive where it rises to the right; of the lesion as it is, whatever the shape of pixels.
        """
        (x1, y1), (x2, y2) = self.longest.start, self.longest.end
        shape = 1.0 if self.spacing is None else self.spacing.row_mm / self.spacing.column_mm
        angle = math.degrees(math.atan2((y1 - y2) * shape, x2 - x1))
        return angle - 180 if angle > 90 else angle + 180 if angle <= -90 else angle

    @property
    def orientation(self) -> Orientation:
        """Of the longest axis to the skin, which is taken to be along the image's rows.

        Parallel up to 45 degrees; undetermined where no axis is the longest by much: the
        perpendicular has nine tenths of its length, or another one may have as much more.
        """
        length = self.longest.length
        if self.perpendicular.length > _ROUND * length or length < _ROUND * self.longest_at_most:
            return "undetermined"
        return "parallel" if abs(self.angle_deg) <= _PARALLEL_DEG else "not parallel"

    @property
    def height_to_width(self) -> float:
        """Of the box around the lesion; the longest axis has no part in it."""
        return self.height / self.width

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; lengths in `unit`, areas in its square, points in pixels."""
        return {
            "unit": self.unit,
            "area": round(self.area, _DIGITS),
            "hole_area": round(self.hole_area, _DIGITS),
            "perimeter": round(self.perimeter, _DIGITS),
            "longest_diameter": self.longest.to_json(),
            "longest_at_most": round(self.longest_at_most, _DIGITS),
            "perpendicular_diameter": self.perpendicular.to_json(),
            "angle_deg": round(self.angle_deg, 1),
            "orientation": self.orientation,
            "width": round(self.width, _DIGITS),
            "height": round(self.height, _DIGITS),
            "height_to_width": round(self.height_to_width, _DIGITS),
            "equivalent_diameter": round(self.equivalent_diameter, _DIGITS),
            "centroid_px": [round(value, 2) for value in self.centroid],
            "components": self.components,
            "other_area": round(self.other_area, _DIGITS),
            "cut_by": list(self.cut_by),
            "spacing": None if self.spacing is None else self.spacing.to_json(),
            "location": None if self.location is None else asdict(self.location),
        }


def measure_lesion(
    mask: npt.NDArray[np.bool_],
    spacing: PixelSpacing | None = None,
    location: BreastLocation | None = None,
) -> LesionMeasurements | None:
    """Measure the largest component of a mask.

    Args:
        mask: (H, W), bool.
        spacing: size of a pixel, mm; None gives sizes in pixels, of square ones.
        location: where the lesion is, for reports; nothing is computed from it.

    Returns:
        The sizes; None for an empty mask.

    Raises:
        BadArgumentError: if the mask is not a bool array of two axes.

    Example:
        >>> import numpy as np
        >>> mask = np.zeros((60, 80), bool)
        >>> mask[20:40, 10:50] = True
        >>> found = measure_lesion(mask, PixelSpacing.square(0.5))
        >>> (found.width, found.height, found.unit)
        (20.0, 10.0, 'mm')
    """
    import cv2

    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise BadArgumentError(f"mask must be bool, (H, W), got {mask.dtype} {mask.shape}.")
    count, labels, statistics, centroids = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    if count < 2:
        return None
    areas = statistics[1:, cv2.CC_STAT_AREA]
    largest = int(np.argmax(areas)) + 1  # the first of the largest
    left, top, width, height = (
        int(statistics[largest, column])
        for column in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT)
    )
    region = labels[top : top + height, left : left + width] == largest
    scale_x, scale_y = (1.0, 1.0) if spacing is None else (spacing.column_mm, spacing.row_mm)
    pixel_area = scale_x * scale_y
    area_px = int(areas[largest - 1])
    callipers = callipers_of(region, (scale_x, scale_y))

    def diameter(ends: Points) -> Diameter:
        start, end = (ends + np.array([left, top])).tolist()
        length = math.hypot(scale_x * (end[0] - start[0]), scale_y * (end[1] - start[1]))
        return Diameter(length, (start[0], start[1]), (end[0], end[1]))

    rows, columns = mask.shape
    sides = {
        "left": left == 0,
        "top": top == 0,
        "right": left + width == columns,
        "bottom": top + height == rows,
    }
    return LesionMeasurements(
        unit="px" if spacing is None else spacing.unit,
        area=area_px * pixel_area,
        hole_area=_hole_pixels(region) * pixel_area,
        perimeter=outline_length(region, (scale_x, scale_y)),
        longest=diameter(callipers.longest),
        perpendicular=diameter(callipers.perpendicular),
        longest_at_most=callipers.longest_at_most,
        width=width * scale_x,
        height=height * scale_y,
        equivalent_diameter=2 * math.sqrt(area_px * pixel_area / math.pi),
        centroid=(float(centroids[largest, 0]), float(centroids[largest, 1])),
        components=count - 1,
        other_area=(int(areas.sum()) - area_px) * pixel_area,
        cut_by=tuple(name for name, is_cut in sides.items() if is_cut),
        spacing=spacing,
        location=location,
    )


def _hole_pixels(region: npt.NDArray[np.bool_]) -> int:
    """Pixels that a region encloses; pixels outside that touch at corners only are apart."""
    import cv2

    _, labels, statistics, _ = cv2.connectedComponentsWithStats(
        np.pad(~region, 1, constant_values=True).astype(np.uint8), connectivity=4
    )
    outside = int(labels[0, 0])
    areas = statistics[1:, cv2.CC_STAT_AREA]
    return int(areas.sum() - areas[outside - 1])
