"""Which of several boxes a point belongs to."""

import numpy as np
import numpy.typing as npt

__all__ = ["assign_points_to_boxes"]


def assign_points_to_boxes(
    boxes: npt.NDArray[np.float64],
    point_coords: npt.NDArray[np.float64],
    point_labels: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Make one row of points for each box out of one list of points.

    With one box every point is its own, wherever it lies: a background point beside the lesion is
    common. With several, a point belongs to each box that contains it, edges included.

    Args:
        boxes: (N, 4), XYXY, pixels.
        point_coords: (P, 2), (x, y), pixels.
        point_labels: (P,): 1 foreground, 0 background.

    Returns:
        Points as `Segmenter.predict` takes them beside boxes: coordinates (N, P, 2), and labels
        (N, P) with -1 where a point does not belong to the box.

    Raises:
        ValueError: if there are several boxes and a point lies in none of them.
    """
    x, y = point_coords[:, 0], point_coords[:, 1]  # (P,)
    x1, y1, x2, y2 = (boxes[:, index : index + 1] for index in range(4))  # (N, 1)
    belongs = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)  # (N, P)
    if len(boxes) == 1:
        belongs[:] = True
    lost = np.flatnonzero(~belongs.any(axis=0))
    if len(lost):
        lost_x, lost_y = point_coords[lost[0]]
        raise ValueError(
            f"point ({lost_x:.10g}, {lost_y:.10g}) lies in none of the {len(boxes)} boxes, so it is "
            "unclear which it belongs to. Move it into a box, or segment it in a run of its own."
        )
    coords = np.tile(point_coords, (len(boxes), 1, 1))  # (N, P, 2)
    return coords, np.where(belongs, point_labels, -1).astype(np.int32)
