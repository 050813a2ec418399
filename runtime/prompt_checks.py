"""Checks of each kind of prompt, with messages that name the value, what was expected and a way out."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["check_boxes", "check_mask_input", "check_point_labels", "check_points"]


def check_boxes(boxes: npt.ArrayLike, original_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Check boxes and cut off what sticks out of the image.

    Args:
        boxes: (N, 4), XYXY, pixels of the original image, x1 < x2 and y1 < y2.
        original_hw: (H, W) of the image, pixels.

    Returns:
        (N, 4), float32, within [-0.5, W - 0.5] x [-0.5, H - 0.5].

    Raises:
        TypeError: if they are not real numbers.
        ValueError: if the shape is another, or a box is not finite, inverted, without area or
            entirely outside the image.
    """
    values = _numbers("boxes", boxes)
    if values.ndim != 2 or values.shape[1] != 4:
        hint = " For one box pass boxes[None]." if values.shape == (4,) else ""
        raise ValueError(
            "boxes must be XYXY with shape (N, 4) in original-image pixels, "
            f"got shape {values.shape}.{hint}"
        )
    height, width = original_hw
    low, high = -0.5, np.array([width, height, width, height]) - 0.5
    clipped = values.clip(low, high).astype(np.float32)
    for index, box in enumerate(values):
        where = f"boxes[{index}] = {_show(box)}"
        _check_box(where, box, original_hw)
        x1, y1, x2, y2 = clipped[index]
        if x1 == x2 or y1 == y2:  # thinner than float32 can tell
            raise ValueError(
                f"{where} has no area within the image. Give a larger box, or a point."
            )
    return clipped


def check_point_labels(
    point_labels: npt.ArrayLike | None, coords_shape: tuple[int, ...]
) -> npt.NDArray[np.int32]:
    """Check point labels against the shape of the points.

    Args:
        point_labels: (N, P) or (P,): 1 foreground, 0 background, -1 padding; None for all 1.
        coords_shape: shape of the points, (N, P, 2) or (P, 2).

    Returns:
        (N, P), int32.

    Raises:
        TypeError: if they are not real numbers.
        ValueError: if either shape is wrong or a label is another.
    """
    if len(coords_shape) not in (2, 3) or coords_shape[-1] != 2:
        hint = " For one point pass [[x, y]]." if coords_shape == (2,) else ""
        raise ValueError(
            "point_coords must be (x, y) with shape (N, P, 2), or (P, 2) for one prompt, in "
            f"original-image pixels, got shape {coords_shape}.{hint}"
        )
    if point_labels is None:
        values = np.ones(coords_shape[:-1])
    else:
        values = _numbers("point_labels", point_labels)
    if values.shape != coords_shape[:-1]:
        raise ValueError(
            f"point_labels must have one label per point, shape {coords_shape[:-1]}, "
            f"got shape {values.shape}."
        )
    if values.size and np.isin(values, (2, 3)).any():
        raise ValueError(
            "point_labels must be 1 (foreground), 0 (background) or -1 (padding), got 2 or 3, which "
            "only exported graphs know. Pass a box as boxes=[[x1, y1, x2, y2]]."
        )
    wrong = values[~np.isin(values, (-1, 0, 1))]
    if wrong.size:
        raise ValueError(
            "point_labels must be 1 (foreground), 0 (background) or -1 (padding), "
            f"got {wrong.flat[0]:.10g}."
        )
    return np.atleast_2d(values).astype(np.int32)  # (N, P)


def check_points(
    point_coords: npt.ArrayLike,
    point_labels: npt.NDArray[np.int32],
    original_hw: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """Check that points are inside the image.

    Args:
        point_coords: (N, P, 2) or (P, 2), (x, y), pixels of the original image.
        point_labels: (N, P); the coordinates of padding (-1) are ignored.
        original_hw: (H, W) of the image, pixels.

    Returns:
        (N, P, 2), float32; zeros for padding.

    Raises:
        TypeError: if they are not real numbers.
        ValueError: if a point is not finite or outside the image.
    """
    values = _numbers("point_coords", point_coords)
    values = values.reshape(*point_labels.shape, 2)  # (N, P, 2)
    values = np.where(point_labels[..., None] == -1, 0.0, values)
    height, width = original_hw
    for x, y in values.reshape(-1, 2):
        where = f"point {_show((x, y))}"
        if not (np.isfinite(x) and np.isfinite(y)):
            raise ValueError(f"{where} is not finite. Give (x, y) as two numbers in pixels.")
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise ValueError(
                f"{where} is outside the image of {width} x {height} pixels. "
                f"Give x from 0 to {width - 1} and y from 0 to {height - 1}."
            )
    return values.astype(np.float32)


def check_mask_input(
    mask_input: npt.ArrayLike, prompts: int, mask_input_hw: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Check the logits of an earlier prediction.

    Args:
        mask_input: (N, 1, h, w), logits.
        prompts: N.
        mask_input_hw: (h, w) that the mask decoder takes.

    Returns:
        (N, 1, h, w), float32.

    Raises:
        TypeError: if they are not real numbers.
        ValueError: if the shape is another or a value is not finite.
    """
    values = _numbers("mask_input", mask_input)
    expected = (prompts, 1, *mask_input_hw)
    if values.shape != expected:
        raise ValueError(
            f"mask_input must have shape {expected}, one mask per prompt, got shape {values.shape}. "
            "Pass low_res_logits[:, index : index + 1] of an earlier prediction."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            "mask_input must be finite logits, got NaN or infinity. "
            "Pass low_res_logits of an earlier prediction."
        )
    return values.astype(np.float32)


def _check_box(where: str, box: npt.NDArray[np.float64], original_hw: tuple[int, int]) -> None:
    height, width = original_hw
    x1, y1, x2, y2 = box
    if not np.isfinite(box).all():
        raise ValueError(f"{where} is not finite. Give x1, y1, x2, y2 as four numbers in pixels.")
    if x1 > x2 or y1 > y2:
        wrong = "x1 > x2" if x1 > x2 else "y1 > y2"
        as_xywh = _show((x1, y1, x1 + x2, y1 + y2))
        raise ValueError(
            f"{where} is inverted: {wrong}. Give two corners x1, y1, x2, y2 with x1 < x2 and y1 < y2; "
            f"if it is x, y, width, height, give {as_xywh}."
        )
    if x1 == x2 or y1 == y2:
        same = "x1 = x2" if x1 == x2 else "y1 = y2"
        raise ValueError(
            f"{where} has no area: {same}. Give two corners x1, y1, x2, y2 with x1 < x2 and y1 < y2, "
            "or a point."
        )
    if x2 <= -0.5 or y2 <= -0.5 or x1 >= width - 0.5 or y1 >= height - 0.5:
        raise ValueError(
            f"{where} is outside the image of {width} x {height} pixels. "
            f"Give x from 0 to {width - 1} and y from 0 to {height - 1}."
        )


def _numbers(name: str, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The value as float64, so that checks see it before it is rounded to float32."""
    try:
        array = np.asarray(value)
    except ValueError as err:  # nested sequences of unequal lengths
        raise ValueError(f"{name} must be an array with rows of equal length ({err}).") from err
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}: {value!r:.60}.")
    return array.astype(np.float64)


def _show(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in values) + ")"
