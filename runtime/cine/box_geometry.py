"""Boxes that follow something through frames."""

__all__ = ["Box", "box_in_frame", "moved_box"]

# XYXY, pixels.
Box = tuple[float, float, float, float]

_LEAST_VISIBLE = 1 / 3


def moved_box(box: Box, shift: tuple[float, float], scale: tuple[float, float]) -> Box:
    """A box moved and scaled about its centre, each by (x, y)."""
    x, y = (box[0] + box[2]) / 2 + shift[0], (box[1] + box[3]) / 2 + shift[1]
    half_width = (box[2] - box[0]) / 2 * scale[0]
    half_height = (box[3] - box[1]) / 2 * scale[1]
    return x - half_width, y - half_height, x + half_width, y + half_height


def box_in_frame(box: Box, frame_hw: tuple[int, ...]) -> Box | None:
    """What of a box is in the frame; None if less than a third of a side is."""
    height, width = frame_hw
    x1, y1 = max(box[0], -0.5), max(box[1], -0.5)
    x2, y2 = min(box[2], width - 0.5), min(box[3], height - 0.5)
    least_width = (box[2] - box[0]) * _LEAST_VISIBLE
    least_height = (box[3] - box[1]) * _LEAST_VISIBLE
    return (x1, y1, x2, y2) if x2 - x1 >= least_width and y2 - y1 >= least_height else None
