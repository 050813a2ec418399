"""A lesion followed through the frames of a cine, with a mask for each frame in which there is reason to believe it."""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.runtime.cine.appearance import Appearance, Found
from samus_edge.runtime.cine.box_geometry import Box, box_in_frame, moved_box
from samus_edge.runtime.cine.lesion_contrast import lesion_contrast
from samus_edge.runtime.grey_frame import GreyFrame
from samus_edge.runtime.mask_box import box_around
from samus_edge.runtime.prediction import Embedding
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["LesionTracker", "State", "TrackedFrame", "TrackerOptions"]

State = Literal["tracking", "uncertain", "lost", "stopped"]
Mask = npt.NDArray[np.bool_]

_STEP_REACH, _MARK_REACH = 0.25, 0.12
_LEAST_ANCHOR = 0.5
_SIZE_LEAK, _SIZE_LIMITS = 0.5, (0.7, 1.4)
_WEAK_CONTRAST = 0.2


@dataclass(frozen=True)
class TrackerOptions:
    """When a lesion counts as found. docs/tracking.md says how the defaults were chosen.

    Attributes:
        certain_similarity: to what was marked, normalised cross-correlation; below it is uncertain.
        least_similarity: below that it is lost.
        certain_contrast: of the lesion to its surroundings, as part of that in the first frame; below it is uncertain.
        least_contrast: below that it is lost.
        certain_iou: part of the predicted IoU in the first frame; below it is uncertain.
        least_iou: below that it is lost.
        certain_growth: factor by which the area may differ from that in the first frame; above it is uncertain.
        most_growth: above that it is lost.
        found_similarity: at which a lost lesion is found again.
        most_lost: frames after which a lost lesion is no longer looked for; None never stops.
    """

    certain_similarity: float = 0.75
    least_similarity: float = 0.6
    certain_contrast: float = 0.65
    least_contrast: float = 0.4
    certain_iou: float = 0.85
    least_iou: float = 0.7
    certain_growth: float = 1.5
    most_growth: float = 2.0
    found_similarity: float = 0.75
    most_lost: int | None = 60


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """A lesion in one frame.

    Attributes:
        index: of the frame, from 0 at the start.
        state: "tracking"; "uncertain": there is a mask, look at it; "lost": there is none, it is looked for;
            "stopped": there is none, and there will be none.
        mask: (H, W), bool; None where it is lost.
        box: around the mask, XYXY, pixels; None where it is lost.
        predicted_iou: by the model; None where nothing was predicted.
        similarity: to what was marked, -1 to 1.
        contrast: to its surroundings, as part of that in the first frame; None where nothing was predicted.
        reason: why it is uncertain or lost; "" while it is tracked.
        was_found: whether it was lost in the frame before.
    """

    index: int
    state: State
    mask: Mask | None
    box: Box | None
    predicted_iou: float | None
    similarity: float
    contrast: float | None
    reason: str = ""
    was_found: bool = False


@dataclass(frozen=True, eq=False)
class _Mark:
    """What a person has marked, and what the model made of it."""

    box: Box
    appearance: Appearance
    mask_box: Box
    area: int
    predicted_iou: float
    contrast: float


@dataclass(frozen=True, eq=False)
class _Mask:
    """What the model makes of a box in a frame."""

    mask: Mask
    box: Box | None
    predicted_iou: float
    contrast: float


class LesionTracker:
    """Follows one lesion. Not for several threads at once.

    The box that a person has drawn is moved along: by the lesion's shift from the frame before, put right by its shift
    from the first frame, and by half of what the mask has grown. Masks alone do not make the next box: where an
    edge is weak, each would be a little smaller or larger than the one before.

    Args:
        segmenter: stays open while it tracks; may be shared.
        options: None for the defaults.
    """

    def __init__(self, segmenter: Segmenter, options: TrackerOptions | None = None) -> None:
        self._segmenter = segmenter
        self._options = options or TrackerOptions()
        self._index = -1
        self._state: State = "stopped"
        self._mark: _Mark | None = None
        self._before: Appearance | None = None
        self._shift = (0.0, 0.0)
        self._scale = (1.0, 1.0)
        self._lost_for = 0

    @property
    def state(self) -> State:
        """Of the last frame; "stopped" before the first."""
        return self._state

    def start(
        self, frame: GreyFrame, box: Box, *, embedding: Embedding | None = None
    ) -> TrackedFrame:
        """Begin with a lesion that a person has marked; also to begin anew.

        Args:
            frame: (H, W), uint8.
            box: XYXY around it, pixels.
            embedding: of the frame, if it is encoded already.

        Raises:
            ValueError: if the box is not one, or outside.
            BackendError: if the backend fails.
        """
        found = self._segment(frame, box, embedding)
        self._index, self._lost_for = 0, 0
        self._shift, self._scale = (0.0, 0.0), (1.0, 1.0)
        if found.box is None:
            self._mark, self._state = None, "stopped"
            reason = "there is no lesion in the box"
            return TrackedFrame(0, "stopped", None, None, found.predicted_iou, 0.0, None, reason)
        appearance = Appearance(frame, box)
        area = int(np.count_nonzero(found.mask))
        self._mark = _Mark(box, appearance, found.box, area, found.predicted_iou, found.contrast)
        self._before = appearance
        reason = "" if appearance.is_usable else "it is too small or too flat to be followed"
        self._state = "uncertain" if reason else "tracking"
        return TrackedFrame(
            0, self._state, found.mask, found.box, found.predicted_iou, 1.0, 1.0, reason
        )

    def update(self, frame: GreyFrame, *, embedding: Embedding | None = None) -> TrackedFrame:
        """Go on to the next frame.

        Args:
            frame: (H, W), uint8, as large as the one before.
            embedding: of the frame, if it is encoded already.

        Raises:
            RuntimeError: before `start`.
            ValueError: if the frame has another size.
            BackendError: if the backend fails.
        """
        if self._index < 0:
            raise RuntimeError("nothing is tracked yet. Call start() with a frame and a box.")
        self._index += 1
        if self._mark is None or self._state == "stopped":
            return TrackedFrame(
                self._index, "stopped", None, None, None, 0.0, None, "stopped; mark it again"
            )
        if self._state == "lost":
            return self._search(frame, embedding, self._mark)
        return self._follow(frame, embedding, self._mark)

    def _follow(self, frame: GreyFrame, embedding: Embedding | None, mark: _Mark) -> TrackedFrame:
        assert self._before is not None
        step = self._before.find(frame, _STEP_REACH)
        expected = (self._shift[0] + step.shift[0], self._shift[1] + step.shift[1])
        anchored = mark.appearance.find(frame, _MARK_REACH, expected)
        self._shift = anchored.shift if anchored.similarity >= _LEAST_ANCHOR else expected
        if anchored.similarity < self._options.least_similarity:
            return self._lose(anchored, f"it looks different ({anchored.similarity:.2f})")
        prompt = box_in_frame(moved_box(mark.box, self._shift, self._scale), frame.shape)
        if prompt is None:
            return self._lose(anchored, "it has left the frame")
        found = self._segment(frame, prompt, embedding)
        return self._judge(frame, found, anchored, mark, prompt, "")

    def _search(self, frame: GreyFrame, embedding: Embedding | None, mark: _Mark) -> TrackedFrame:
        most = self._options.most_lost
        self._lost_for += 1
        if most is not None and self._lost_for > most:
            self._state = "stopped"
            reason = f"not found in {most} frames; mark it again"
            return TrackedFrame(self._index, "stopped", None, None, None, 0.0, None, reason)
        anchored = mark.appearance.find(frame)
        if anchored.similarity < self._options.found_similarity:
            return self._lose(anchored, f"it is not found ({anchored.similarity:.2f})")
        self._shift, self._scale = anchored.shift, (1.0, 1.0)
        prompt = box_in_frame(moved_box(mark.box, self._shift, self._scale), frame.shape)
        if prompt is None:
            return self._lose(anchored, "it is at the edge of the frame")
        found = self._segment(frame, prompt, embedding)
        # Uncertain for one frame: the next one has to agree.
        return self._judge(frame, found, anchored, mark, prompt, "found again")

    def _judge(
        self,
        frame: GreyFrame,
        found: _Mask,
        anchored: Found,
        mark: _Mark,
        prompt: Box,
        doubt: str,
    ) -> TrackedFrame:
        """Believe a mask, doubt it, or do without it."""
        contrast = 1.0
        # Where the lesion never stood out, nothing follows from its contrast.
        if abs(mark.contrast) >= _WEAK_CONTRAST:
            contrast = found.contrast / mark.contrast
        iou = found.predicted_iou / max(mark.predicted_iou, 1e-6)
        area = max(int(np.count_nonzero(found.mask)), 1)
        growth = math.exp(abs(math.log(area / mark.area)))
        options = self._options
        # Being found again takes what being certain takes.
        was_lost = bool(doubt)
        limits = (
            ("its contrast is gone", contrast, options.certain_contrast, options.least_contrast),
            ("the model doubts its mask", iou, options.certain_iou, options.least_iou),
            ("its size changes", -growth, -options.certain_growth, -options.most_growth),
            (
                "it looks different",
                anchored.similarity,
                options.certain_similarity,
                options.least_similarity,
            ),
        )
        for text, value, certain, least in limits:
            reason = f"{text} ({abs(value):.2f})"
            if value < (certain if was_lost else least):
                return self._lose(anchored, reason, found.predicted_iou, contrast)
            if value < certain and not doubt:
                doubt = reason
        if found.box is None:
            return self._lose(anchored, "there is no lesion", found.predicted_iou, contrast)
        self._lost_for = 0
        self._state = "uncertain" if doubt else "tracking"
        self._before = Appearance(frame, prompt)
        self._scale = _grown(found.box, mark.mask_box)
        return TrackedFrame(
            self._index,
            self._state,
            found.mask,
            found.box,
            found.predicted_iou,
            anchored.similarity,
            contrast,
            doubt,
            was_lost,
        )

    def _lose(
        self, anchored: Found, reason: str, iou: float | None = None, contrast: float | None = None
    ) -> TrackedFrame:
        self._state = "lost"
        return TrackedFrame(
            self._index, "lost", None, None, iou, anchored.similarity, contrast, reason
        )

    def _segment(self, frame: GreyFrame, box: Box, embedding: Embedding | None) -> _Mask:
        embedding = self._segmenter.encode(frame) if embedding is None else embedding
        prediction = self._segmenter.predict(embedding, boxes=[box])
        mask = _largest_part(prediction.masks[0, 0])
        iou = float(prediction.iou_predictions[0, 0])
        around = box_around(mask)
        # A line is nothing to follow, nor to compare sizes with.
        is_line = around is not None and (around[0] == around[2] or around[1] == around[3])
        return _Mask(mask, None if is_line else around, iou, lesion_contrast(frame, mask))


def _grown(box: Box, first: Box) -> tuple[float, float]:
    """By how much the prompt is scaled: half of what the mask has grown, within limits."""
    scales = []
    for axis in (0, 1):
        ratio = (box[axis + 2] - box[axis]) / (first[axis + 2] - first[axis])
        scales.append(min(max(1 + _SIZE_LEAK * (ratio - 1), _SIZE_LIMITS[0]), _SIZE_LIMITS[1]))
    return scales[0], scales[1]


def _largest_part(mask: Mask) -> Mask:
    """Islands are no part of the lesion that is followed."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    if count <= 2:
        return mask
    largest: Mask = labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    return largest
