"""Prompts as the user gives them, checked, and as the mask decoder takes them.

Two frames meet here. The user's prompts are in pixels of the original image, (x, y), with pixel
centres at integers, so an image covers x in [-0.5, W - 0.5] and y in [-0.5, H - 0.5]. The mask
decoder takes them in the square model frame; `to_model_frame` is the only way from one to the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.prompt_checks import (
    check_boxes,
    check_mask_input,
    check_point_labels,
    check_points,
)

__all__ = ["DecoderPrompts", "Prompts", "check_prompts", "decoder_prompts", "to_model_frame"]

PADDING_LABEL = -1
BOX_CORNER_LABELS = (2, 3)
# Bounds memory: the decoder holds a copy of the image embeddings for every prompt of a run.
MAX_PROMPTS_PER_RUN = 32


@dataclass(frozen=True)
class Prompts:
    """N checked prompts, each with a box, with points, or with both.

    Attributes:
        original_hw: (H, W) of the image that they were given for, pixels.
        boxes: (N, 4), float32, XYXY, pixels of the original image, clipped to it; None without boxes.
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
        boxes: (N, 4), XYXY, x1 < x2 and y1 < y2, pixels of the original image. What sticks out of the
            image is cut off; a box with nothing inside is an error.
        point_coords: (N, P, 2), (x, y), pixels of the original image, inside it; or (P, 2), which is
            one prompt with P points. With boxes, row i goes with box i.
        point_labels: (N, P) or (P,) like the points: 1 foreground, 0 background, -1 padding (its
            coordinates are ignored); None makes every point foreground.
        mask_input: (N, 1, h, w), logits of an earlier prediction.
        mask_input_hw: (h, w) that the bundle's mask decoder takes.

    Raises:
        TypeError: if something is not numbers.
        ValueError: if there is no prompt, a shape or a value is wrong, or numbers of prompts differ.
    """
    if point_coords is None and point_labels is not None:
        raise ValueError("point_labels were given without point_coords. Give the points as well.")
    checked_boxes = None if boxes is None else check_boxes(boxes, original_hw)
    if point_coords is None:
        count = 0 if checked_boxes is None else len(checked_boxes)
        coords = np.zeros((count, 0, 2), np.float32)
        labels = np.zeros((count, 0), np.int32)
    else:
        shape = np.shape(point_coords)
        labels = check_point_labels(point_labels, shape)  # (N, P)
        coords = check_points(point_coords, labels, original_hw)  # (N, P, 2)
    if checked_boxes is not None and len(checked_boxes) != len(coords):
        raise ValueError(
            f"boxes and point_coords must have one row per prompt, got {len(checked_boxes)} boxes and "
            f"points for {len(coords)} prompts. Give point_coords with shape "
            f"({len(checked_boxes)}, P, 2), padded with label -1."
        )
    if len(coords) == 0:
        raise ValueError("no prompt was given. Give at least one box or one point.")
    if checked_boxes is None:
        _refuse_rows_without_points(labels)
    checked_mask = (
        None if mask_input is None else check_mask_input(mask_input, len(coords), mask_input_hw)
    )
    return Prompts(
        original_hw=original_hw,
        boxes=checked_boxes,
        point_coords=coords,
        point_labels=labels,
        mask_input=checked_mask,
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
    prompts: Prompts, model_size: int, most_prompts: int | None = None
) -> Iterator[DecoderPrompts]:
    """Pack prompts for the mask decoder, in groups with equally many points.

    The decoder attends to padding as to any other point (as in SAM), so padding a prompt to the
    length of its neighbours would change its mask. Grouping keeps each prompt's mask independent of
    what else is asked in the same call. A prompt without a box gets SAM's one padding point.

    Args:
        prompts: N checked prompts.
        model_size: side of the frame that the decoder takes prompts in, pixels.
        most_prompts: that the decoder takes in one run; None for no limit of its own.

    Yields:
        Groups of at most `MAX_PROMPTS_PER_RUN`, or `most_prompts`, that together hold every row exactly once.
    """
    most = min(MAX_PROMPTS_PER_RUN, most_prompts or MAX_PROMPTS_PER_RUN)
    counts = (prompts.point_labels != PADDING_LABEL).sum(axis=1)  # (N,)
    for count in np.unique(counts):
        same_count = np.flatnonzero(counts == count)
        for start in range(0, len(same_count), most):
            rows = same_count[start : start + most]
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


def _refuse_rows_without_points(labels: npt.NDArray[np.int32]) -> None:
    empty = np.flatnonzero((labels != PADDING_LABEL).sum(axis=1) == 0)
    if len(empty):
        raise ValueError(
            f"prompt {empty[0]} has no box and no point, only padding. "
            "Give it at least one point with label 1 or 0."
        )
