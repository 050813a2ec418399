"""A picture of a result for people: the image, each mask's contour, its prompt, and a legend.

Contours leave the texture inside them visible. The legend lies below the image, never on it, and
every line on the image has a dark rim, so that it is seen on dark and on bright tissue.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, OutputFileError
from samus_edge.runtime.images.canvas import Canvas, Colour, draw_legend, draw_tag, text_height_px
from samus_edge.runtime.measurement.lesion_measurements import Diameter, LesionMeasurements


def encode_image(path: Path, image: npt.NDArray[np.uint8]) -> bytes:
    """Encode an image in the format that a file name asks for; nothing is written.

    Args:
        path: its suffix names the format; the rest only appears in the message.
        image: (H, W) grey or (H, W, 3) RGB, uint8.

    Raises:
        OutputFileError: if OpenCV cannot encode it.
    """
    import cv2

    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        done, content = cv2.imencode(path.suffix.lower(), pixels)
    except cv2.error as err:
        raise OutputFileError(f"{path} cannot be encoded by OpenCV ({err.err}).") from err
    if not done:
        raise OutputFileError(f"{path} cannot be encoded by OpenCV.")
    return bytes(content)


MAX_LABELS = 255
_SINGLE_VALUE = 255


def mask_image(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """One mask as black and white, several as labels.

    Args:
        masks: (N, H, W), bool, N from 1 to `MAX_LABELS`.

    Returns:
        (H, W), uint8. For N = 1, 255 inside the mask; for more, i + 1 inside mask i, the later mask
        where two overlap. 0 is background.

    Raises:
        BadArgumentError: if there are more masks than labels.
    """
    if len(masks) > MAX_LABELS:
        raise BadArgumentError(
            f"a mask file holds at most {MAX_LABELS} masks, got {len(masks)}. Give fewer prompts."
        )
    image = np.zeros(masks.shape[1:], np.uint8)
    for index, mask in enumerate(masks):
        image[mask] = _SINGLE_VALUE if len(masks) == 1 else index + 1
    return image


_RIM: Colour = (0, 0, 0)
_DOT_DISTANCE = 5  # strokes


def draw_callipers(
    canvas: Canvas, measurements: LesionMeasurements, factor: int, colour: Colour, stroke: int
) -> None:
    """Draw the longest axis and the perpendicular.

    Args:
        canvas: (H, W, 3), uint8, RGB, the image enlarged by `factor`; drawn on.
        measurements: with ends in pixels of the image.
        factor: by which the image was enlarged.
        colour: of crosses and dots.
        stroke: width of lines, pixels of the canvas.
    """
    import cv2

    for diameter, marker in (
        (measurements.longest, cv2.MARKER_CROSS),
        (measurements.perpendicular, cv2.MARKER_TILTED_CROSS),
    ):
        _draw_diameter(canvas, diameter, marker, factor, colour, stroke)


def calliper_text(measurements: LesionMeasurements) -> str:
    """One line for a legend: what a report on a lesion begins with."""
    unit = measurements.unit
    digits = 1 if unit == "mm" else 0

    def sized(value: float) -> str:
        return f"{value:.{digits}f} {unit}"

    text = (
        f"+ {sized(measurements.longest.length)} at {measurements.angle_deg:.0f} deg "
        f"({measurements.orientation}), x {sized(measurements.perpendicular.length)}, "
        f"width {sized(measurements.width)}, height {sized(measurements.height)}, "
        f"height/width {measurements.height_to_width:.2f}, area {sized(measurements.area)}2"
    )
    if measurements.cut_by:
        text += f", cut by the frame ({', '.join(measurements.cut_by)}): at least that"
    return text


def _draw_diameter(
    canvas: Canvas, diameter: Diameter, marker: int, factor: int, colour: Colour, stroke: int
) -> None:
    import cv2

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


# Told apart on grey by hue and brightness, also with a colour vision deficiency; RGB.
_COLOURS: tuple[Colour, ...] = (
    (0, 229, 255),
    (255, 214, 0),
    (255, 92, 255),
    (0, 230, 118),
    (255, 145, 0),
    (138, 170, 255),
    (255, 105, 97),
    (255, 255, 255),
)
_FOREGROUND_POINT: Colour = (0, 230, 118)
_BACKGROUND_POINT: Colour = (255, 82, 82)
# Smaller images are enlarged by a whole factor until their longer side has this many pixels.
_MIN_LONG_SIDE_PX = 800
_MAX_FACTOR = 32
# cv2 draws lines between points given in 1/16 of a pixel.
_SHIFT = 4

_Points: TypeAlias = Sequence[tuple[float, float, int]]
_Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class OverlayItem:
    """One mask with what it was prompted by.

    Attributes:
        mask: (H, W), bool.
        caption: its line in the legend.
        box: the box prompt, XYXY, pixels of the image; None without.
        points: the point prompts, (x, y, label) with label 1 foreground or 0 background.
        measurements: drawn as callipers; None without.
    """

    mask: npt.NDArray[np.bool_]
    caption: str
    box: _Box | None = None
    points: _Points = ()
    measurements: LesionMeasurements | None = None


def draw_overlay(
    image: npt.NDArray[np.uint8], items: Sequence[OverlayItem], notes: Sequence[str] = ()
) -> Canvas:
    """Draw masks and prompts on an image, and a legend below it.

    Args:
        image: (H, W), uint8, grey.
        items: the masks to draw; each gets a colour and, where there are several, a number.
        notes: the last lines of the legend.

    Returns:
        (h, w, 3), uint8, RGB. The image's part is the image enlarged by a whole factor (1 from 800
        pixels on); it is wider only where the legend is wider than the image.

    Example:
        >>> import numpy as np
        >>> mask = np.zeros((473, 561), bool)
        >>> mask[100:200, 150:300] = True
        >>> image = read_image("examples/benign_80.png")
        >>> draw_overlay(image, [OverlayItem(mask, "lesion")]).dtype
        dtype('uint8')
    """
    import cv2

    height, width = image.shape
    factor = min(-(-_MIN_LONG_SIDE_PX // max(height, width)), _MAX_FACTOR)
    size_wh = (width * factor, height * factor)
    enlarged = cv2.resize(image, size_wh, interpolation=cv2.INTER_CUBIC)  # (h, w)
    canvas: Canvas = np.repeat(np.asarray(enlarged, np.uint8)[..., None], 3, axis=2)
    stroke = max(1, round(math.sqrt(size_wh[0] * size_wh[1]) / 450))
    colours = [_COLOURS[index % len(_COLOURS)] for index in range(len(items))]
    for item, colour in zip(items, colours, strict=True):
        _draw_contour(canvas, item.mask, colour, stroke)
    for item, colour in zip(items, colours, strict=True):
        if item.measurements is not None:
            draw_callipers(canvas, item.measurements, factor, colour, stroke)
    # Prompts last, so that no contour hides them.
    for item, colour in zip(items, colours, strict=True):
        if item.box is not None:
            _draw_box(canvas, item.box, factor, colour, stroke)
    for item in items:
        for x, y, label in item.points:
            _draw_point(canvas, (x, y), label, factor, stroke)
    text_px = text_height_px(size_wh)
    lines = []
    for index, (item, colour) in enumerate(zip(items, colours, strict=True)):
        number = f"{index + 1}  " if len(items) > 1 else ""
        anchor = _tag_anchor(item, factor) if number else None
        if anchor is not None:
            draw_tag(canvas, str(index + 1), anchor, colour, text_px)
        lines.append((colour, number + item.caption))
        if item.measurements is not None:
            lines.append((colour, calliper_text(item.measurements)))
    return draw_legend(canvas, lines, [*_prompt_notes(items), *notes], text_px)


def _draw_contour(canvas: Canvas, mask: npt.NDArray[np.bool_], colour: Colour, stroke: int) -> None:
    import cv2

    height, width = canvas.shape[:2]
    # Linear, then halved: nearest would show every pixel of a small image as a stair.
    smooth = cv2.resize(
        mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR
    )
    inside = (np.asarray(smooth) > 127).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, _RIM, stroke + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, colour, stroke, cv2.LINE_AA)


def _draw_box(canvas: Canvas, box: _Box, factor: int, colour: Colour, stroke: int) -> None:
    """Dashed, so that it is not taken for a contour."""
    import cv2

    x1, y1, x2, y2 = ((value + 0.5) * factor - 0.5 for value in box)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    dash_px = 6.0 * stroke + 4.0
    thin = max(1, stroke // 2)
    dashes: list[npt.NDArray[np.int32]] = []
    for start, end in pairwise(corners):
        first, last = np.array(start), np.array(end)
        length = float(np.linalg.norm(last - first))
        # An odd number of pieces, every second drawn, so that corners are always drawn.
        pieces = max(1, round(length / dash_px)) // 2 * 2 + 1
        steps = np.linspace(0.0, 1.0, pieces + 1)[:, None]
        knots = np.rint((first + steps * (last - first)) * (1 << _SHIFT)).astype(np.int32)
        dashes += [knots[index : index + 2] for index in range(0, pieces, 2)]
    for line_colour, thickness in ((_RIM, thin + 2), (colour, thin)):
        cv2.polylines(canvas, dashes, False, line_colour, thickness, cv2.LINE_AA, _SHIFT)


def _draw_point(
    canvas: Canvas, xy: tuple[float, float], label: int, factor: int, stroke: int
) -> None:
    """A disc with a plus (foreground) or a cross (background): colour is not the only sign."""
    import cv2

    x, y = ((value + 0.5) * factor - 0.5 for value in xy)
    scale = 1 << _SHIFT
    centre = (round(x * scale), round(y * scale))
    radius = 3 * stroke + 4
    colour = _FOREGROUND_POINT if label == 1 else _BACKGROUND_POINT
    cv2.circle(canvas, centre, (radius + 2) * scale, _RIM, -1, cv2.LINE_AA, _SHIFT)
    cv2.circle(canvas, centre, radius * scale, colour, -1, cv2.LINE_AA, _SHIFT)
    marker = cv2.MARKER_CROSS if label == 1 else cv2.MARKER_TILTED_CROSS
    marker_px = round(radius * (1.4 if label == 1 else 1.1))
    cv2.drawMarker(canvas, (round(x), round(y)), _RIM, marker, marker_px, max(2, stroke))


def _tag_anchor(item: OverlayItem, factor: int) -> tuple[int, int] | None:
    """Where a mask's number goes: beside the box's corner, a point, or the top of the mask."""
    if item.box is not None:
        x, y = item.box[:2]
    elif item.points:
        x, y = item.points[0][:2]
    elif item.mask.any():
        rows, columns = np.nonzero(item.mask)
        x, y = float(columns[0]), float(rows[0])
    else:
        return None
    return round((x + 0.5) * factor), round((y + 0.5) * factor)


def _prompt_notes(items: Sequence[OverlayItem]) -> list[str]:
    labels = {label for item in items for _, _, label in item.points}
    parts = []
    if any(item.box is not None for item in items):
        parts.append("dashed: box prompt")
    if 1 in labels:
        parts.append("green +: foreground point")
    if 0 in labels:
        parts.append("red x: background point")
    return [", ".join(parts)] if parts else []
