"""Prompts as the user gives them, checked, and as the mask decoder takes them.

Two frames meet here. The user's prompts are in pixels of the original image, (x, y), with pixel
centres at integers, so an image covers x in [-0.5, W - 0.5] and y in [-0.5, H - 0.5]. The mask
decoder takes them in the square model frame; `to_model_frame` is the only way from one to the
other.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError

PADDING_LABEL = -1
FOREGROUND_LABEL = 1
BOX_CORNER_LABELS = (2, 3)
# Bounds memory: the decoder holds a copy of the image embeddings for every prompt of a run.
MAX_PROMPTS_PER_RUN = 32


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
        BadArgumentError: if there are several boxes and a point lies in none of them.
    """
    x, y = point_coords[:, 0], point_coords[:, 1]  # (P,)
    x1, y1, x2, y2 = (boxes[:, index : index + 1] for index in range(4))  # (N, 1)
    belongs = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)  # (N, P)
    if len(boxes) == 1:
        belongs[:] = True
    lost = np.flatnonzero(~belongs.any(axis=0))
    if len(lost):
        lost_x, lost_y = point_coords[lost[0]]
        raise BadArgumentError(
            f"point ({lost_x:.10g}, {lost_y:.10g}) lies in none of the {len(boxes)} boxes, so it "
            "is unclear which it belongs to. Move it into a box, or segment it in a run of its own."
        )
    coords = np.tile(point_coords, (len(boxes), 1, 1))  # (N, P, 2)
    return coords, np.where(belongs, point_labels, PADDING_LABEL).astype(np.int32)


@dataclass(frozen=True)
class Prompts:
    """N checked prompts, each with a box, with a foreground point, or with both.

    Attributes:
        original_hw: (H, W) of the image that they were given for, pixels.
        boxes: (N, 4), float32, XYXY, pixels of the original image, clipped to it; None without
            boxes.
        point_coords: (N, P, 2), float32, (x, y), pixels of the original image; P may be 0.
        point_labels: (N, P), int32: 1 foreground, 0 background, -1 padding.
        mask_input: (N, 1, h, w), float32, logits of an earlier prediction; None without.
    """

    original_hw: tuple[int, int]
    boxes: npt.NDArray[np.float32] | None
    point_coords: npt.NDArray[np.float32]
    point_labels: npt.NDArray[np.int32]
    mask_input: npt.NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.point_coords)

    @property
    def point_counts(self) -> npt.NDArray[np.int64]:
        """(N,): how many points each prompt has, without padding."""
        return np.asarray(np.count_nonzero(self.point_labels != PADDING_LABEL, axis=1), np.int64)

    @property
    def needed_points(self) -> npt.NDArray[np.int64]:
        """(N,): how many of a prompt's points it takes to say what to segment.

        None beside a box, else those up to the first foreground point.
        """
        if self.boxes is not None:
            return np.zeros(len(self), np.int64)
        first = np.argmax(self.point_labels == FOREGROUND_LABEL, axis=1)  # (N,)
        needed: npt.NDArray[np.int64] = self._ranks()[np.arange(len(self)), first]
        return needed

    def part(
        self,
        rows: npt.NDArray[np.int64],
        point_counts: npt.NDArray[np.int64],
        mask_input: npt.NDArray[np.float32] | None,
    ) -> "Prompts":
        """Some of the prompts, each with its first points alone.

        Args:
            rows: (n,), which prompts.
            point_counts: (n,), how many points each keeps; the others become padding.
            mask_input: (n, 1, h, w), logits to go with them.
        """
        is_shown = self._ranks()[rows] <= point_counts[:, None]  # (n, P)
        return Prompts(
            original_hw=self.original_hw,
            boxes=None if self.boxes is None else self.boxes[rows],
            point_coords=self.point_coords[rows],
            point_labels=np.where(is_shown, self.point_labels[rows], PADDING_LABEL),
            mask_input=mask_input,
        )

    def _ranks(self) -> npt.NDArray[np.int64]:
        """(N, P): 1 for a prompt's first point, 2 for its second; padding does not count."""
        return np.cumsum(self.point_labels != PADDING_LABEL, axis=1)


@dataclass(frozen=True)
class DecoderPrompts:
    """Prompts with equally many points, as one run of the mask decoder takes them.

    Attributes:
        rows: (n,), int64: which of the N prompts these are.
        point_coords: (n, P, 2), float32, model frame; box corners first, then points, then padding.
        point_labels: (n, P), float32: 1, 0, -1 padding, 2 and 3 the corners of a box.
    """

    rows: npt.NDArray[np.int64]
    point_coords: npt.NDArray[np.float32]
    point_labels: npt.NDArray[np.float32]


def check_prompts(
    original_hw: tuple[int, int],
    *,
    boxes: npt.ArrayLike | None = None,
    point_coords: npt.ArrayLike | None = None,
    point_labels: npt.ArrayLike | None = None,
    mask_input: npt.ArrayLike | None = None,
    mask_input_hw: tuple[int, int] = (128, 128),
) -> Prompts:
    """Check prompts and bring them into one form.

    Args:
        original_hw: (H, W) of the image, pixels.
        boxes: (N, 4), XYXY, x1 < x2 and y1 < y2, pixels of the original image. What sticks out of
            the image is cut off; a box with nothing inside is an error.
        point_coords: (N, P, 2), (x, y), pixels of the original image, inside it; or (P, 2), which
            is one prompt with P points. With boxes, row i goes with box i.
        point_labels: (N, P) or (P,) like the points: 1 foreground, 0 background, -1 padding (its
            coordinates are ignored); None makes every point foreground.
        mask_input: (N, 1, h, w), logits of an earlier prediction.
        mask_input_hw: (h, w) that the bundle's mask decoder takes.

    Raises:
        TypeError: if something is not numbers.
        BadArgumentError: if there is no prompt, one has neither a box nor a foreground point, a
            shape or a value is wrong, or numbers of prompts differ.
    """
    if point_coords is None and point_labels is not None:
        raise BadArgumentError(
            "point_labels were given without point_coords. Give the points as well."
        )
    checked_boxes = None if boxes is None else _check_boxes(boxes, original_hw)
    if point_coords is None:
        count = 0 if checked_boxes is None else len(checked_boxes)
        coords = np.zeros((count, 0, 2), np.float32)
        labels = np.zeros((count, 0), np.int32)
    else:
        values = _numbers("point_coords", point_coords)
        labels = _check_point_labels(point_labels, values.shape)  # (N, P)
        coords = _check_points(values, labels, original_hw)  # (N, P, 2)
    if checked_boxes is not None and len(checked_boxes) != len(coords):
        raise BadArgumentError(
            f"boxes and point_coords must have one row per prompt, got {len(checked_boxes)} boxes "
            f"and points for {len(coords)} prompts. Give point_coords with shape "
            f"({len(checked_boxes)}, P, 2), padded with label -1."
        )
    if len(coords) == 0:
        raise BadArgumentError("no prompt was given. Give at least one box or one point.")
    if checked_boxes is None:
        _refuse_rows_without_foreground(labels)
    _refuse_contradictions(coords, labels)
    checked_mask = (
        None if mask_input is None else _check_mask_input(mask_input, len(coords), mask_input_hw)
    )
    return Prompts(
        original_hw=original_hw,
        boxes=checked_boxes,
        point_coords=coords,
        point_labels=labels,
        mask_input=checked_mask,
    )


def _check_boxes(boxes: npt.ArrayLike, original_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(N, 4), float32, cut off at the image; raises as `check_prompts`, like all that follow."""
    values = _numbers("boxes", boxes)
    if values.ndim != 2 or values.shape[1] != 4:
        hint = " For one box pass boxes[None]." if values.shape == (4,) else ""
        raise BadArgumentError(
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
            raise BadArgumentError(
                f"{where} has no area within the image. Give a larger box, or a point."
            )
    return clipped


def _check_point_labels(
    point_labels: npt.ArrayLike | None, coords_shape: tuple[int, ...]
) -> npt.NDArray[np.int32]:
    """(N, P), int32, of points with the shape (N, P, 2) or (P, 2)."""
    if len(coords_shape) not in (2, 3) or coords_shape[-1] != 2:
        hint = " For one point pass [[x, y]]." if coords_shape == (2,) else ""
        raise BadArgumentError(
            "point_coords must be (x, y) with shape (N, P, 2), or (P, 2) for one prompt, in "
            f"original-image pixels, got shape {coords_shape}.{hint}"
        )
    if point_labels is None:
        values = np.ones(coords_shape[:-1])
    else:
        values = _numbers("point_labels", point_labels)
    if values.shape != coords_shape[:-1]:
        raise BadArgumentError(
            f"point_labels must have one label per point, shape {coords_shape[:-1]}, "
            f"got shape {values.shape}."
        )
    if values.size and np.isin(values, (2, 3)).any():
        raise BadArgumentError(
            "point_labels must be 1 (foreground), 0 (background) or -1 (padding), got 2 or 3, "
            "which only exported graphs know. Pass a box as boxes=[[x1, y1, x2, y2]]."
        )
    wrong = values[~np.isin(values, (-1, 0, 1))]
    if wrong.size:
        raise BadArgumentError(
            "point_labels must be 1 (foreground), 0 (background) or -1 (padding), "
            f"got {wrong.flat[0]:.10g}."
        )
    return np.atleast_2d(values).astype(np.int32)  # (N, P)


def _check_points(
    point_coords: npt.NDArray[np.float64],
    point_labels: npt.NDArray[np.int32],
    original_hw: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """(N, P, 2), float32, inside the image; zeros for padding, whose coordinates are ignored."""
    values = point_coords.reshape(*point_labels.shape, 2)  # (N, P, 2)
    values = np.where(point_labels[..., None] == PADDING_LABEL, 0.0, values)
    height, width = original_hw
    for x, y in values.reshape(-1, 2):
        where = f"point {_show((x, y))}"
        if not (np.isfinite(x) and np.isfinite(y)):
            raise BadArgumentError(f"{where} is not finite. Give (x, y) as two numbers in pixels.")
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise BadArgumentError(
                f"{where} is outside the image of {width} x {height} pixels. "
                f"Give x from 0 to {width - 1} and y from 0 to {height - 1}."
            )
    return values.astype(np.float32)


def _check_mask_input(
    mask_input: npt.ArrayLike, prompts: int, mask_input_hw: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """(N, 1, h, w), float32, finite."""
    values = _numbers("mask_input", mask_input)
    expected = (prompts, 1, *mask_input_hw)
    if values.shape != expected:
        raise BadArgumentError(
            f"mask_input must have shape {expected}, one mask per prompt, got shape "
            f"{values.shape}. Pass low_res_logits[:, index : index + 1] of an earlier prediction."
        )
    if not np.isfinite(values).all():
        raise BadArgumentError(
            "mask_input must be finite logits, got NaN or infinity. "
            "Pass low_res_logits of an earlier prediction."
        )
    return values.astype(np.float32)


def _check_box(where: str, box: npt.NDArray[np.float64], original_hw: tuple[int, int]) -> None:
    height, width = original_hw
    x1, y1, x2, y2 = box
    if not np.isfinite(box).all():
        raise BadArgumentError(
            f"{where} is not finite. Give x1, y1, x2, y2 as four numbers in pixels."
        )
    if x1 > x2 or y1 > y2:
        wrong = "x1 > x2" if x1 > x2 else "y1 > y2"
        as_xywh = _show((x1, y1, x1 + x2, y1 + y2))
        raise BadArgumentError(
            f"{where} is inverted: {wrong}. Give two corners x1, y1, x2, y2 with x1 < x2 and y1 < "
            f"y2; if it is x, y, width, height, give {as_xywh}."
        )
    if x1 == x2 or y1 == y2:
        same = "x1 = x2" if x1 == x2 else "y1 = y2"
        raise BadArgumentError(
            f"{where} has no area: {same}. Give two corners x1, y1, x2, y2 with x1 < x2 and y1 < "
            "y2, or a point."
        )
    if x2 <= -0.5 or y2 <= -0.5 or x1 >= width - 0.5 or y1 >= height - 0.5:
        raise BadArgumentError(
            f"{where} is outside the image of {width} x {height} pixels. "
            f"Give x from 0 to {width - 1} and y from 0 to {height - 1}."
        )


def _numbers(name: str, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The value as float64, so that checks see it before it is rounded to float32."""
    try:
        array = np.asarray(value)
    except ValueError as err:  # nested sequences of unequal lengths
        raise BadArgumentError(
            f"{name} must have rows of equal length, got {value!r:.60}. Give every prompt the same "
            "number of points; fill up with points of label -1."
        ) from err
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}: {value!r:.60}.")
    return array.astype(np.float64)


def _show(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in values) + ")"


def _refuse_rows_without_foreground(labels: npt.NDArray[np.int32]) -> None:
    """Refuse prompts of padding and background points, which do not say what to segment."""
    lacking = np.flatnonzero((labels != FOREGROUND_LABEL).all(axis=1))
    if len(lacking):
        has_background = (labels[lacking[0]] == 0).any()
        what = "only background points" if has_background else "no box and no point, only padding"
        raise BadArgumentError(
            f"prompt {lacking[0]} has {what}, so nothing says where the lesion is. Give it a box, "
            "or a point with label 1 on the lesion."
        )


def _refuse_contradictions(coords: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> None:
    """Refuse prompts with a foreground and a background point on one pixel."""
    for row, (row_coords, row_labels) in enumerate(zip(coords, labels, strict=True)):
        pixels = np.floor(row_coords + 0.5)  # (P, 2)
        for pixel in pixels[row_labels == 0]:
            if (pixels[row_labels == FOREGROUND_LABEL] == pixel).all(axis=1).any():
                raise BadArgumentError(
                    f"prompt {row} has a foreground and a background point on one pixel, "
                    f"{_show(pixel)}. Leave one of them out."
                )


def to_model_frame(
    xy: npt.NDArray[np.float32], original_hw: tuple[int, int], model_size: int
) -> npt.NDArray[np.float32]:
    """From pixels of the original image to pixels of the square model input.

    Half-pixel rule: pixel centres are at integers in both frames and the image edges coincide, so
    xy_model = (xy + 0.5) * (model_size / (W, H)) - 0.5, which is how the frame itself is resized.

    Args:
        xy: (..., 2), float32, pixels of the original image.
        original_hw: (H, W) of the original image, pixels.
        model_size: side of the model input, pixels.

    Returns:
        (..., 2), float32, in [-0.5, model_size - 0.5] for what is inside the image.
    """
    height, width = original_hw
    scale = model_size / np.array([width, height], np.float64)
    return ((xy.astype(np.float64) + 0.5) * scale - 0.5).astype(np.float32)


def decoder_prompts(
    prompts: Prompts, model_size: int, max_prompts: int | None = None
) -> Iterator[DecoderPrompts]:
    """Pack prompts for the mask decoder, in groups with equally many points.

    The decoder attends to padding as to any other point (as in SAM), so padding a prompt to the
    length of its neighbours would change its mask. Grouping keeps each prompt's mask independent of
    what else is asked in the same call. A prompt without a box gets SAM's one padding point.

    Args:
        prompts: N checked prompts.
        model_size: side of the frame that the decoder takes prompts in, pixels.
        max_prompts: Most prompts in one run of the decoder; None for no limit of its own.

    Yields:
        Groups of at most `MAX_PROMPTS_PER_RUN`, or `max_prompts`, that together hold every row
        exactly once.
    """
    size = min(MAX_PROMPTS_PER_RUN, max_prompts or MAX_PROMPTS_PER_RUN)
    counts = prompts.point_counts  # (N,)
    for count in np.unique(counts):
        same_count = np.flatnonzero(counts == count)
        for start in range(0, len(same_count), size):
            rows = same_count[start : start + size]
            yield _pack_rows(prompts, rows, int(count), model_size)


def _pack_rows(
    prompts: Prompts, rows: npt.NDArray[np.int64], count: int, model_size: int
) -> DecoderPrompts:
    """Pack rows that have `count` points each."""
    labels = prompts.point_labels[rows]  # (n, P)
    is_point = labels != PADDING_LABEL
    coords = prompts.point_coords[rows][is_point].reshape(len(rows), count, 2)
    coords = to_model_frame(coords, prompts.original_hw, model_size)
    labels = labels[is_point].reshape(len(rows), count)
    if prompts.boxes is None:
        padding = np.zeros((len(rows), 1, 2), np.float32)
        padding_labels = np.full((len(rows), 1), PADDING_LABEL)
        coords = np.concatenate([coords, padding], axis=1)  # (n, count + 1, 2)
        labels = np.concatenate([labels, padding_labels], axis=1)
    else:
        corners = prompts.boxes[rows].reshape(len(rows), 2, 2)
        corners = to_model_frame(corners, prompts.original_hw, model_size)
        corner_labels = np.tile(BOX_CORNER_LABELS, (len(rows), 1))
        coords = np.concatenate([corners, coords], axis=1)  # (n, 2 + count, 2)
        labels = np.concatenate([corner_labels, labels], axis=1)
    return DecoderPrompts(rows=rows, point_coords=coords, point_labels=labels.astype(np.float32))
