"""Measurements drawn as an ultrasound machine draws callipers: crosses at the ends, dots between."""

import math

import cv2

from samus_edge.runtime.legend import Canvas, Colour
from samus_edge.runtime.measurement.lesion_measurements import Diameter, LesionMeasurements

__all__ = ["calliper_text", "draw_callipers"]

_RIM: Colour = (0, 0, 0)
_DOT_DISTANCE = 5  # strokes


def draw_callipers(
    canvas: Canvas, measurements: LesionMeasurements, factor: int, colour: Colour, stroke: int
) -> None:
    """Draw the longest diameter and the one perpendicular to it.

    Args:
        canvas: (H, W, 3), uint8, RGB, the image enlarged by `factor`; drawn on.
        measurements: with ends in pixels of the image.
        factor: by which the image was enlarged.
        colour: of crosses and dots.
        stroke: width of lines, pixels of the canvas.
    """
    for diameter, marker in (
        (measurements.longest, cv2.MARKER_CROSS),
        (measurements.perpendicular, cv2.MARKER_TILTED_CROSS),
    ):
        _draw_diameter(canvas, diameter, marker, factor, colour, stroke)


def calliper_text(measurements: LesionMeasurements) -> str:
    """One line for a legend: what a report on a lesion begins with."""
    unit = measurements.unit
    digits = 1 if unit == "mm" else 0

    def number(value: float) -> str:
        return f"{value:.{digits}f}"

    text = (
        f"+ {number(measurements.longest.length)} {unit}, x {number(measurements.perpendicular.length)} "
        f"{unit}, width {number(measurements.width)} {unit}, height {number(measurements.height)} {unit}, "
        f"area {number(measurements.area)} {unit}2"
    )
    if measurements.is_taller_than_wide:
        text += ", taller than wide"
    if measurements.cut_by:
        text += f", cut by the frame ({', '.join(measurements.cut_by)}): at least that"
    return text


def _draw_diameter(
    canvas: Canvas, diameter: Diameter, marker: int, factor: int, colour: Colour, stroke: int
) -> None:
    height, width = canvas.shape[:2]
    ends = []
    for x, y in (diameter.start, diameter.end):
        # The outline of a lesion at the frame's edge is half a pixel outside.
        column = min(max((x + 0.5) * factor - 0.5, 0.0), width - 1.0)
        row = min(max((y + 0.5) * factor - 0.5, 0.0), height - 1.0)
        ends.append((column, row))
    (x1, y1), (x2, y2) = ends
    dots = max(1, round(math.dist(*ends) / (_DOT_DISTANCE * stroke)))
    size = 6 * stroke + 5
    for shade, extra in ((_RIM, 2), (colour, 0)):
        for index in range(1, dots):
            centre = (
                round(x1 + (x2 - x1) * index / dots),
                round(y1 + (y2 - y1) * index / dots),
            )
            cv2.circle(canvas, centre, max(1, stroke // 2) + extra // 2, shade, -1, cv2.LINE_AA)
        for x, y in ends:
            cv2.drawMarker(
                canvas, (round(x), round(y)), shade, marker, size + extra, stroke + extra
            )
