"""From embeddings and prompts to masks: the mask decoder, and the one rule of what is made of it.

The same image, bundle and prompts give the same mask wherever they are asked for (`predict_masks`):

- A prompt's points are clicks, in their order. The first step is the box alone, or the points up to
  the first foreground point; each further click refines the mask before it, whose logits go in as
  well. With logits of the caller's own (`mask_input`), all points go in at once beside them.
- Clicks are obeyed: a pixel clicked as foreground is in the mask, one clicked as background is not.
  The network alone seldom follows a click against a box (on BUSI, one clicked pixel in ten does).
  So where the clicked pixel is on the wrong side, the logits around it are shifted, most at the
  click, and less with the distance to the border of the wrong region.
- There are no crumbs: each connected part of a mask holds a foreground click, but for the largest
  part that reaches into the prompt's box.
- A mask that was edited so is scored again: the decoder is asked what it makes of the edited logits
  as `mask_input`; its predicted IoU counts, less where its mask is another than the edited one.
"""

import io
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, missing_extra
from samus_edge.runtime.backends.backend import Tensor
from samus_edge.runtime.bundle.manifest import MASKS_PER_PROMPT
from samus_edge.runtime.images.image_io import grey_frame
from samus_edge.runtime.images.mask_shapes import coco_shape, outlines
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay, encode_image, mask_image
from samus_edge.runtime.notes import GreyRange, Note
from samus_edge.runtime.prompts import (
    FOREGROUND_LABEL,
    PADDING_LABEL,
    DecoderPrompts,
    Prompts,
    decoder_prompts,
)
from samus_edge.runtime.quality import Quality

if TYPE_CHECKING:
    from supervision import Detections

    from samus_edge.runtime.backends.gpu.device import DeviceTensor

Logits: TypeAlias = npt.NDArray[np.float32]
Decode: TypeAlias = Callable[[Prompts, slice], tuple[Logits, Logits]]
"""From N prompts, and which M of a prompt's four masks to keep, to (N, M, h, w) logits and (N, M)
predicted IoU."""

SINGLE_MASK = slice(0, 1)
MULTIMASK = slice(1, MASKS_PER_PROMPT)
# The least distance of a clicked logit from the threshold; 4 is a probability of 0.98.
_MARGIN = np.float32(4.0)
# Standard deviation of a shift, in distances from the click to the border of the wrong region.
_REACH = 2.0
_MIN_REACH = 1.5  # pixels of the logits: less would be a dot
# IoU of an edited mask and the network's next one, from which on its predicted IoU counts in full.
_AGREEING = 0.8


class MaskDecoder(Protocol):
    """What decodes: a `GraphSession`, or a model behind its interface."""

    def largest(self, name: str, axis: int) -> int | None: ...

    def run(self, feeds: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]: ...


Embeddings = TypeVar("Embeddings")  # an array of the host, or of the device that decodes


def mask_decoder_feeds(
    image_embeddings: Embeddings,
    group: DecoderPrompts,
    mask_input: npt.NDArray[np.float32] | None,
    mask_input_hw: tuple[int, int],
) -> dict[str, Tensor | Embeddings]:
    """Put together an image, a group of its prompts and their earlier logits.

    Args:
        image_embeddings: (1, C, h, w), float32, of the host or of the device that decodes.
        group: A group of n of the N prompts.
        mask_input: (N, 1, 4h, 4w), float32, logits of an earlier prediction; None without.
        mask_input_hw: (4h, 4w) that the graph takes.

    Returns:
        One array for each input of the graph, by name. Without mask_input it is zeros, and
        has_mask_input is 0, at which the graph puts its learned "no mask" embedding.
    """
    count = len(group.rows)
    if mask_input is None:
        masks = np.zeros((count, 1, *mask_input_hw), np.float32)
    else:
        masks = mask_input[group.rows]  # (n, 1, 4h, 4w)
    return {
        "image_embeddings": image_embeddings,
        "point_coords": group.point_coords,
        "point_labels": group.point_labels,
        "mask_input": masks,
        "has_mask_input": np.full((count, 1), mask_input is not None, np.float32),
    }


def decode_prompts(
    decoder: MaskDecoder,
    image_embeddings: object,
    prompts: Prompts,
    model_size: int,
    mask_input_hw: tuple[int, int],
    kept: slice = slice(0, MASKS_PER_PROMPT),
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Run the mask decoder on every prompt, in groups with equally many points.

    Args:
        decoder: the mask decoder.
        image_embeddings: (1, C, h, w), float32, wherever the decoder takes it from.
        prompts: N checked prompts.
        model_size: side of the frame that the decoder takes prompts in, pixels.
        mask_input_hw: (4h, 4w) that the decoder takes and gives.
        kept: The M of the four masks of a prompt to keep.

    Returns:
        (N, M, 4h, 4w) logits and (N, M) predicted IoU, float32, as they come: NaN is not refused.

    Raises:
        BackendError: if the decoder fails.
    """
    masks_per_prompt = kept.stop - kept.start
    logits = np.empty((len(prompts), masks_per_prompt, *mask_input_hw), np.float32)
    ious = np.empty((len(prompts), masks_per_prompt), np.float32)
    max_prompts = decoder.largest("point_coords", 0)
    for group in decoder_prompts(prompts, model_size, max_prompts):
        outputs = decoder.run(
            mask_decoder_feeds(image_embeddings, group, prompts.mask_input, mask_input_hw)
        )
        logits[group.rows] = outputs["low_res_masks"][:, kept]
        ious[group.rows] = outputs["iou_predictions"][:, kept]
    return logits, ious


def predict_masks(
    decode: Decode, prompts: Prompts, mask_threshold: float, multimask_output: bool
) -> tuple[Logits, Logits]:
    """Predict by the one prompt rule, which is told at the top of this module.

    Args:
        decode: runs the mask decoder.
        prompts: N checked prompts.
        mask_threshold: A pixel belongs to the mask where its logit is greater than this.
        multimask_output: False for one mask per prompt, True for three alternatives.

    Returns:
        (N, M, h, w) logits and (N, M) predicted IoU, float32; M is 1 or 3.
    """
    counts = prompts.point_counts
    first = counts if prompts.mask_input is not None else prompts.needed_points
    kept = MULTIMASK if multimask_output else SINGLE_MASK
    groups: list[tuple[npt.NDArray[np.int64], Logits, Logits]] = []
    for steps in np.unique(counts - first):
        rows = np.flatnonzero(counts - first == steps)
        earlier = None if prompts.mask_input is None else prompts.mask_input[rows]
        for step in range(steps):
            shown = prompts.part(rows, first[rows] + step, earlier)
            earlier, _ = decode(shown, SINGLE_MASK)
            for row in range(len(rows)):
                earlier[row, 0] = _obeying(earlier[row, 0], shown, row, mask_threshold)
        shown = prompts.part(rows, counts[rows], earlier)
        logits, ious = decode(shown, kept)
        edited = np.stack(
            [_edited(each, shown, row, mask_threshold) for row, each in enumerate(logits)]
        )
        is_other = ((edited > mask_threshold) != (logits > mask_threshold)).any((2, 3))  # (n, M)
        for index in np.flatnonzero(is_other.any(axis=0)):
            which = np.flatnonzero(is_other[:, index])
            mask_input = edited[which, index : index + 1]
            again = prompts.part(rows[which], counts[rows[which]], mask_input)
            ious[which, index] = _score_again(decode, again, mask_threshold)
        groups.append((rows, edited, ious))
    order = np.argsort(np.concatenate([rows for rows, _, _ in groups]))
    return (
        np.concatenate([logits for _, logits, _ in groups])[order],
        np.concatenate([ious for _, _, ious in groups])[order],
    )


def _edited(logits: Logits, prompts: Prompts, row: int, mask_threshold: float) -> Logits:
    """A prompt's (M, h, w) logits, new, made to obey its clicks and free of crumbs."""
    return np.stack(
        [
            _without_crumbs(
                _obeying(network, prompts, row, mask_threshold), prompts, row, mask_threshold
            )
            for network in logits
        ]
    )


def _score_again(decode: Decode, prompts: Prompts, mask_threshold: float) -> Logits:
    """(n,) predicted IoU of masks that are the `mask_input` of n prompts.

    On BUSI's validation part, after 1 to 3 corrective clicks, this score is off by 0.044 in the
    mean (bias 0.002), the network's score before the edit by 0.046; but of a lesion with its middle
    clicked away that one still says 0.9.
    """
    assert prompts.mask_input is not None
    logits, ious = decode(prompts, SINGLE_MASK)
    mine, networks = prompts.mask_input[:, 0] > mask_threshold, logits[:, 0] > mask_threshold
    both = np.count_nonzero(mine & networks, axis=(1, 2))
    agreement = both / np.maximum(np.count_nonzero(mine | networks, axis=(1, 2)), 1)  # (n,)
    scores: Logits = ious[:, 0] * np.minimum(agreement / _AGREEING, 1.0).astype(np.float32)
    return scores


def _obeying(logits: Logits, prompts: Prompts, row: int, mask_threshold: float) -> Logits:
    """(h, w) logits of a prompt, new, in which its clicks are on their side of the threshold."""
    labels = prompts.point_labels[row]
    clicks = labels != PADDING_LABEL
    if not clicks.any():
        return logits
    shift = np.float32(mask_threshold)
    coords = prompts.point_coords[row][clicks]
    shifted = shift_to_clicks(logits - shift, coords, labels[clicks], prompts.original_hw)
    return np.asarray(shifted + shift, np.float32)


def _without_crumbs(logits: Logits, prompts: Prompts, row: int, mask_threshold: float) -> Logits:
    """(h, w) logits of a prompt, mirrored at the threshold where a part of the mask is a crumb."""
    import cv2

    # Parts that touch at corners only come apart when the logits are upsampled.
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(
        (logits > mask_threshold).astype(np.uint8), connectivity=4
    )
    if count <= 2:  # the background, and at most one part
        return logits
    kept = np.zeros(count, np.bool_)
    height, width = logits.shape
    scale = np.array([width, height]) / np.array(prompts.original_hw[::-1])  # x, y
    if prompts.boxes is not None:
        left, top, right, bottom = ((prompts.boxes[row] + 0.5) * np.tile(scale, 2)).tolist()
        x, y, part_width, part_height, area = statistics.T  # (count,) each
        reaches = (x < right) & (x + part_width > left) & (y < bottom) & (y + part_height > top)
        reaches[0] = False
        if not reaches[1:].any():
            reaches[1:] = True
        kept[np.argmax(np.where(reaches, area, 0))] = True
    for xy in prompts.point_coords[row][prompts.point_labels[row] == FOREGROUND_LABEL]:
        kept[parts[_around(xy, logits.shape, prompts.original_hw)[0]]] = True
    kept[0] = True
    mirrored = 2 * np.float32(mask_threshold) - logits
    cleaned: Logits = np.where(kept[parts], logits, mirrored)
    return cleaned


def shift_to_clicks(
    logits: Logits,
    point_coords: npt.NDArray[np.floating[Any]],
    point_labels: npt.NDArray[np.int32],
    original_hw: tuple[int, int],
) -> Logits:
    """Shift logits around clicks that are on the wrong side.

    Args:
        logits: (h, w), above 0 on the lesion.
        point_coords: (P, 2), pixels of the frame.
        point_labels: (P,), 1 on the lesion, 0 beside it.
        original_hw: (H, W) of the frame.

    Returns:
        (h, w), new. Upsampled to the frame, the pixel of each click is on its side; of clicks with
        different labels within one pixel of the logits, the last is.
    """
    import cv2

    rows, columns = np.mgrid[: logits.shape[0], : logits.shape[1]].astype(np.float32)
    shifted = logits.astype(np.float32, copy=True)
    for xy, label in zip(point_coords, point_labels, strict=True):
        sign = np.float32(1.0 if label == FOREGROUND_LABEL else -1.0)
        _, (row, column) = _around(xy, logits.shape, original_hw)
        at = round(row), round(column)
        lacking = _MARGIN - sign * shifted[at]
        if lacking > 0:
            wrong = shifted <= 0 if sign > 0 else shifted > 0
            border = cv2.distanceTransform(np.pad(wrong, 1).astype(np.uint8), cv2.DIST_L2, 5)
            reach = max(_MIN_REACH, _REACH * float(border[at[0] + 1, at[1] + 1]))
            distances = (columns - column) ** 2 + (rows - row) ** 2
            shifted += sign * lacking * np.exp(-distances / (2 * reach**2)).astype(np.float32)
    for xy, label in zip(point_coords, point_labels, strict=True):
        # The clicked pixel's logit is a mean of the four around it: steep ones outvote the nearest.
        where, (row, column) = _around(xy, logits.shape, original_hw)
        around = shifted[where]
        across = around[:, 0] + (around[:, -1] - around[:, 0]) * (column % 1)
        value = across[0] + (across[-1] - across[0]) * (row % 1)
        if label == FOREGROUND_LABEL and value <= 0.1 * _MARGIN:
            np.maximum(around, _MARGIN, out=around)
        elif label != FOREGROUND_LABEL and value > -0.1 * _MARGIN:
            np.minimum(around, -_MARGIN, out=around)
    return shifted


def _around(
    xy: npt.NDArray[np.floating[Any]], logits_hw: tuple[int, ...], original_hw: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[float, float]]:
    """Where in a map of logits the clicked pixel of the frame is.

    Returns:
        The one, two or four logits that its own is a mean of, and its (row, column) among all.
        Pixel centres are at integers in both grids.
    """
    size = np.array(logits_hw[::-1])
    centre = (np.floor(xy + 0.5) + 0.5) * size / np.array(original_hw[::-1]) - 0.5
    column, row = np.clip(centre, 0, size - 1).tolist()
    rows = slice(math.floor(row), math.ceil(row) + 1)
    return (rows, slice(math.floor(column), math.ceil(column) + 1)), (row, column)


def upsample_logits(
    logits: npt.NDArray[np.float32], original_hw: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Resize one map of logits bilinearly, with half-pixel centres and no antialiasing.

    Args:
        logits: (h, w), float32.
        original_hw: (H, W), pixels.

    Returns:
        (H, W), float32.

    Source: Segment Anything, `Sam.postprocess_masks`. We differ: our model input is the whole frame
        stretched to a square, so there is no padding to cut away.
    """
    # Here, so that importing the runtime does not load OpenCV.
    import cv2

    height, width = original_hw
    resized = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)  # (H, W)
    return np.asarray(resized, dtype=np.float32)


def masks_from_logits(
    low_res_logits: npt.NDArray[np.float32], original_hw: tuple[int, int], mask_threshold: float
) -> npt.NDArray[np.bool_]:
    """Upsample logits, then threshold: the other order would give jagged contours.

    Args:
        low_res_logits: (N, M, h, w), float32.
        original_hw: (H, W), pixels.
        mask_threshold: A pixel belongs to the mask where its logit is greater than this.

    Returns:
        (N, M, H, W), bool.
    """
    masks = np.empty((*low_res_logits.shape[:2], *original_hw), np.bool_)
    for index in np.ndindex(*low_res_logits.shape[:2]):
        # One map at a time: float32 logits of all masks of a large frame would not fit in memory.
        np.greater(
            upsample_logits(low_res_logits[index], original_hw), mask_threshold, masks[index]
        )
    return masks


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image, to be prompted any number of times.

    Attributes:
        tensor: (1, C, h, w), float32: the image encoder's output, where it was computed: in memory
            of the host, or of the GPU, which is given back with the embedding.
        original_hw: (H, W) of the image, pixels.
        encoder_sha256: SHA-256 of the image encoder that made it; another bundle's decoder refuses
            it.
        grey: (2, h, w), uint8: the least and the greatest grey value of the image in the cells of a
            coarse grid; None for an image that was in the memory of a GPU.
    """

    tensor: "npt.NDArray[np.float32] | DeviceTensor"
    original_hw: tuple[int, int]
    encoder_sha256: str
    grey: GreyRange | None = None

    @property
    def image_embeddings(self) -> npt.NDArray[np.float32]:
        """(1, C, h, w), float32, in memory of the host; copied there from a GPU, every time."""
        return self.tensor if isinstance(self.tensor, np.ndarray) else self.tensor.numpy()


@dataclass(frozen=True, eq=False)
class Proposals:
    """Where lesions were looked for without a prompt.

    Attributes:
        boxes: (N, 4), float32, XYXY in pixels of the original image.
        points: (N, 2), float32, (x, y): the clicks that the masks are the answers to.
        scores: (N,), float32, in [0, 1]: how sure the model is of each; they need not fall, for
            masks are ranked by their agreement with the map of lesions as well.
        presence: estimated probability that the image shows a lesion, also where it was too low to
            propose anything; no score is greater.
    """

    boxes: npt.NDArray[np.float32]
    points: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    presence: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """Masks for N prompts, M each: M is 1, or 3 with `multimask_output=True`.

    Attributes:
        masks: (N, M, H, W), bool, size of the original image.
        low_res_logits: (N, M, h, w), float32, before the threshold; a slice `[:, i : i + 1]` of it
            is a `mask_input`.
        iou_predictions: (N, M), float32: the model's estimate of each mask's IoU; not clipped, may
            leave [0, 1].
        original_hw: (H, W) of the image, pixels.
        notes: What looks wrong: a blank image, coordinates that are no pixels, a poor mask.
        quality: What is to be expected of each prompt's mask; None for alternatives (M > 1), and
            where the bundle has no calibration.
        proposals: What the masks were proposed by; None where the prompts were a user's.
    """

    masks: npt.NDArray[np.bool_]
    low_res_logits: npt.NDArray[np.float32]
    iou_predictions: npt.NDArray[np.float32]
    original_hw: tuple[int, int]
    notes: tuple[Note, ...] = ()
    quality: tuple[Quality, ...] | None = None
    proposals: Proposals | None = None

    def best(self) -> tuple[npt.NDArray[np.bool_], Logits]:
        """Of each prompt the mask with the highest predicted IoU, and that: what follows shows.

        Returns:
            (N, H, W), bool, and (N,), float32.
        """
        rows, chosen = np.arange(len(self.masks)), self.iou_predictions.argmax(axis=1)
        return self.masks[rows, chosen], self.iou_predictions[rows, chosen]

    def contours(self) -> list[list[npt.NDArray[np.float64]]]:
        """The outlines of the best masks, along the edges of their pixels.

        Returns:
            For each prompt, of each part and each hole of its mask the corners, (P, 2), (x, y) in
            pixels of the image, half way between pixel centres. They enclose exactly the pixels of
            the mask; holes turn the other way. For OpenCV, which wants pixel centres:
            `np.rint(outline).astype(np.int32)`.
        """
        return [outlines(mask) for mask in self.best()[0]]

    def to_coco(self, file_name: str = "", *, as_polygons: bool = False) -> dict[str, Any]:
        """The best masks that are not empty as a COCO document, ready for `json.dump`.

        Args:
            file_name: Of the image.
            as_polygons: Polygons unless a mask has a hole, which they cannot have; else run
                lengths.
        """
        masks, scores = self.best()
        height, width = self.original_hw
        shapes = [coco_shape(mask, as_polygons) for mask in masks]
        return {
            "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
            "annotations": [
                {"id": index, "image_id": 1, "category_id": 1, **shape, "score": float(score)}
                for index, (shape, score) in enumerate(zip(shapes, scores, strict=True), 1)
                if shape is not None
            ],
            "categories": [{"id": 1, "name": "lesion"}],
        }

    def to_supervision(self) -> "Detections":
        """The best masks that are not empty as `supervision.Detections`.

        Returns:
            With `mask` (K, H, W), bool, `confidence` (K,), the predicted IoU, `class_id` 0, and the
            index of the prompt as `data["prompt"]`.

        Raises:
            MissingExtraError: without supervision.
        """
        try:
            import supervision
        except ModuleNotFoundError as err:
            raise missing_extra("Prediction.to_supervision", "supervision") from err
        masks, scores = self.best()
        shown = np.flatnonzero(masks.any(axis=(1, 2)))
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks[shown]).astype(np.float32),
            mask=masks[shown],
            confidence=scores[shown],
            class_id=np.zeros(len(shown), np.int64),
            data={"prompt": shown},
        )

    def draw(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The contours of the best masks on the image, with a legend below.

        Args:
            image: (H, W) grey or (H, W, 3) RGB, uint8: the one that was segmented.

        Returns:
            RGB, uint8, as `draw_overlay`, which also draws prompts and callipers.

        Raises:
            BadArgumentError: if the image is of another size.
        """
        frame = grey_frame(image)
        if frame.shape != self.original_hw:
            raise BadArgumentError(
                f"the image must have the shape {self.original_hw} of the masks, got {frame.shape}."
            )
        items = [
            OverlayItem(mask, f"{np.count_nonzero(mask)} px, predicted IoU {score:.2f}")
            for mask, score in zip(*self.best(), strict=True)
        ]
        return draw_overlay(frame, items)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the best masks to a file, which is replaced if it exists, and never half-written.

        Args:
            path: By its ending `.png`, the image that `samus-edge infer --out` writes (0 and 255;
                of several masks 1, 2 ..., the later one where they overlap); `.npz`, `masks`
                (N, H, W), bool, and `iou_predictions` (N,), float32; or `.json`, as `to_coco`.

        Raises:
            BadArgumentError: if it ends otherwise, or there are more than 255 masks for a PNG.
            OutputFileError: if it cannot be written.
        """
        file = Path(path)
        masks, scores = self.best()
        suffix = file.suffix.lower()
        if suffix == ".png":
            content = encode_image(file, mask_image(masks))
        elif suffix == ".npz":
            stream = io.BytesIO()
            np.savez_compressed(stream, masks=masks, iou_predictions=scores)
            content = stream.getvalue()
        elif suffix == ".json":
            content = json.dumps(self.to_coco()).encode()
        else:
            raise BadArgumentError(
                f"masks go into a file ending in .png, .npz or .json, got {file}."
            )
        write_files_atomically({file: content})
