"""Functions for CVAT's own command, `cvat-cli ... --function-module samus_edge.server.cvat`.

By default an interaction function, for an agent: clicks and a box in CVAT's editor become a mask.
With `boxes` or `propose` a detection function, for `task auto-annotate`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import cvat_sdk.auto_annotation as cvataa
import numpy as np
import numpy.typing as npt
from cvat_sdk.masks import encode_mask
from cvat_sdk.models import AttributeValRequest

from samus_edge.errors import BadArgumentError
from samus_edge.jobs.record import Box, predict_prompted
from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["Detection", "Interaction", "create"]


def create(
    bundle: str | None = None,
    require_signature: str | None = None,
    backend: str = "auto",
    precision: str = "auto",
    label: str = "lesion",
    boxes: str | None = None,
    propose: bool = False,
) -> "Interaction | Detection":
    """Make a function; what `-p NAME=TYPE:VALUE` gives.

    Args:
        bundle: See `Segmenter.load`, as for the next three.
        require_signature: See there.
        backend: See there.
        precision: See there.
        label: Of the masks of a detection function, as the task has it.
        boxes: JSON file of boxes by name of the frame: {"a.png": [[x1, y1, x2, y2], ...], ...},
            pixels with centres at integers.
        propose: Whether lesions are found without boxes, by a bundle that can.

    Raises:
        BadArgumentError: if both ways of detecting are asked for, or the file is not such a one.
        BackendError: if lesions are to be proposed, and the bundle cannot.
    """
    if boxes is not None and propose:
        raise BadArgumentError("give boxes or propose, not both.")
    known = None if boxes is None else _read_boxes(Path(boxes))
    segmenter = Segmenter.load(
        bundle, require_signature=require_signature, backend=backend, precision=precision
    )
    if known is None and not propose:
        return Interaction(segmenter)
    if propose and not segmenter.can_propose:
        raise BadArgumentError(
            f"the bundle {segmenter.bundle.manifest.name} has no lesion proposer. Give boxes."
        )
    return Detection(segmenter, label, known)


class Interaction:
    """A mask for a box, for clicks, or for a box that clicks correct."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.spec = cvataa.InteractionFunctionSpec(
            min_pos_points=0, min_neg_points=0, min_bounding_boxes=0
        )

    def preprocess_image(
        self, context: cvataa.InteractionFunctionContext, image: "PIL.Image.Image"
    ) -> Embedding:
        """Encode a frame; CVAT keeps what comes of it for the next prompt."""
        return self._segmenter.encode(_pixels(image))

    def detect(
        self,
        context: cvataa.InteractionFunctionContext,
        pp_image: Embedding,
        prompts: cvataa.InteractionPrompts,
    ) -> list[cvataa.InteractionResultShape]:
        """The mask of a prompt."""
        corners = prompts.bounding_box
        boxes = [] if corners is None else [_centred(*corners[0], *corners[1])]
        clicks = ((1, prompts.pos_points), (0, prompts.neg_points))
        height, width = pp_image.original_hw
        points = [
            (float(np.clip(x - 0.5, 0, width - 1)), float(np.clip(y - 0.5, 0, height - 1)), label)
            for label, xys in clicks
            for x, y in xys
        ]
        found = predict_prompted(self._segmenter, pp_image, boxes, points)
        confidence = AttributeValRequest(
            spec_id=int(cvataa.InteractionResultAttributes.CONFIDENCE),
            value=f"{_score(found, 0):.4f}",
        )
        return [
            cvataa.InteractionResultShape(
                type="mask", points=encode_mask(found.masks[0, 0]), attributes=[confidence]
            )
        ]


class Detection:
    """A mask for each known box of a frame, or for each lesion that the bundle proposes."""

    def __init__(
        self, segmenter: Segmenter, label: str, boxes: Mapping[str, Sequence[Box]] | None
    ) -> None:
        self._segmenter, self._boxes = segmenter, boxes
        self.spec = cvataa.DetectionFunctionSpec(labels=[cvataa.label_spec(label, 0)])

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: "PIL.Image.Image"
    ) -> list[Any]:
        """The masks of a frame, none with less than the confidence that is asked for."""
        boxes = None if self._boxes is None else self._boxes.get(context.frame_name, ())
        if boxes is not None and not boxes:
            return []
        embedding = self._segmenter.encode(_pixels(image))
        found = (
            self._segmenter.propose(embedding, max_lesions=3)
            if boxes is None
            else predict_prompted(self._segmenter, embedding, boxes, [])
        )
        least = context.conf_threshold or 0.0
        masks = [
            masks[0]
            for index, masks in enumerate(found.masks)
            if masks[0].any() and _score(found, index) >= least
        ]
        if context.conv_mask_to_poly:
            return [cvataa.polygon(0, points) for mask in masks for points in _polygons(mask)]
        return [cvataa.mask(0, encode_mask(mask)) for mask in masks]


def _pixels(image: "PIL.Image.Image") -> npt.NDArray[np.uint8]:
    """A frame of CVAT's, (H, W) or (H, W, 3)."""
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"), np.uint8)


def _polygons(mask: npt.NDArray[np.bool_]) -> list[list[float]]:
    """The outlines of a mask's parts, x and y in turn, in CVAT's coordinates."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    return [(contour.ravel() + 0.5).tolist() for contour in contours if len(contour) > 2]


def _centred(x1: float, y1: float, x2: float, y2: float) -> Box:
    """CVAT's corners, (0, 0) at the corner of the first pixel, with pixel centres at integers."""
    return x1 - 0.5, y1 - 0.5, x2 - 0.5, y2 - 0.5


def _score(found: Prediction, index: int) -> float:
    return float(np.clip(found.iou_predictions[index, 0], 0, 1))


def _read_boxes(path: Path) -> dict[str, list[Box]]:
    problem = f'{path} is not {{"FRAME": [[x1, y1, x2, y2], ...], ...}}'
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        boxes = {name: np.array(rows, float).reshape(-1, 4) for name, rows in read.items()}
    except (OSError, ValueError, AttributeError, TypeError) as err:
        raise BadArgumentError(f"{problem}: {err}") from err
    return {name: [(x1, y1, x2, y2) for x1, y1, x2, y2 in rows] for name, rows in boxes.items()}
