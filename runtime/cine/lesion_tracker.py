"""A lesion followed through the frames of a cine, with a mask for each frame in which there is
reason to believe it."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.measurement.lesion_measurements import box_around
from samus_edge.runtime.prediction import Embedding
from samus_edge.runtime.quality import Quality
from samus_edge.runtime.segmenter import Segmenter

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


_PATCH_SIDE_PX = 48
"""Of the longer side of a patch, after scaling: speckle, which changes from frame to frame, is
averaged away."""
_SURROUNDINGS = 0.3
"""Of the box's sides, added on each side: the border of a lesion tells more than its inside."""
_MIN_PATCH_PX = 5
_FLAT = 1e-6


@dataclass(frozen=True)
class Found:
    """Where something was found.

    Attributes:
        shift: (x, y) from where it was, pixels of the frame.
        similarity: normalised cross-correlation, -1 to 1.
    """

    shift: tuple[float, float]
    similarity: float


class Appearance:
    """A part of a frame, small and smooth.

    Args:
        frame: (H, W), uint8.
        box: XYXY around a lesion, pixels.
    """

    def __init__(self, frame: GreyFrame, box: Box) -> None:
        self._frame_hw = frame.shape
        x1, y1, x2, y2 = box
        width, height = x2 - x1 + 1, y2 - y1 + 1
        margin_x, margin_y = _SURROUNDINGS * width, _SURROUNDINGS * height
        full = (1 + 2 * _SURROUNDINGS) * max(width, height)
        self._scale = min(1.0, _PATCH_SIDE_PX / full)
        small = self._small(frame)
        left, top = (max(0, math.floor(v * self._scale)) for v in (x1 - margin_x, y1 - margin_y))
        right = min(small.shape[1], math.ceil((x2 + margin_x + 1) * self._scale))
        bottom = min(small.shape[0], math.ceil((y2 + margin_y + 1) * self._scale))
        self._left_top = (left, top)
        self._patch = small[top:bottom, left:right].copy()

    @property
    def is_usable(self) -> bool:
        """Whether there is anything to recognise it by."""
        height, width = self._patch.shape
        return min(height, width) >= _MIN_PATCH_PX and float(self._patch.std()) > _FLAT

    def find(
        self,
        frame: GreyFrame,
        reach: float | None = None,
        around: tuple[float, float] = (0.0, 0.0),
    ) -> Found:
        """Look for it in another frame of the same size.

        Args:
            frame: (H, W), uint8.
            reach: how far from there it may be, in sides of the patch; None for everywhere.
            around: (x, y) from where it was, pixels of the frame.

        Returns:
            The best place; similarity 0 if it is not usable.

        Raises:
            BadArgumentError: if the frame has another size.
        """
        import cv2

        if frame.shape != self._frame_hw:
            raise BadArgumentError(
                f"the frame is {frame.shape[0]} x {frame.shape[1]}, those before were "
                f"{self._frame_hw[0]} x {self._frame_hw[1]}. A loop has one size; start again."
            )
        if not self.is_usable:
            return Found((0.0, 0.0), 0.0)
        small = self._small(frame)
        height, width = self._patch.shape
        left, top = self._left_top
        x0, y0, x1, y1 = 0, 0, small.shape[1], small.shape[0]
        if reach is not None:
            across, down = max(2, round(reach * width)), max(2, round(reach * height))
            x = min(max(left + round(around[0] * self._scale), 0), x1 - width)
            y = min(max(top + round(around[1] * self._scale), 0), y1 - height)
            x0, y0 = max(0, x - across), max(0, y - down)
            x1, y1 = min(x1, x + width + across), min(y1, y + height + down)
        scores = cv2.matchTemplate(small[y0:y1, x0:x1], self._patch, cv2.TM_CCOEFF_NORMED)
        scores = np.nan_to_num(np.asarray(scores, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        _, best, _, (column, row) = cv2.minMaxLoc(scores)
        shift = (
            (_refined(scores[row], column) + x0 - left) / self._scale,
            (_refined(scores[:, column], row) + y0 - top) / self._scale,
        )
        return Found(shift, float(np.clip(best, -1.0, 1.0)))

    def _small(self, frame: GreyFrame) -> npt.NDArray[np.float32]:
        import cv2

        height, width = frame.shape
        size_wh = (max(1, round(width * self._scale)), max(1, round(height * self._scale)))
        small = cv2.resize(frame, size_wh, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.GaussianBlur(small.astype(np.float32), (3, 3), 0), np.float32)


def _refined(scores: npt.NDArray[Any], at: int) -> float:
    """The top of the parabola through three scores."""
    if not 0 < at < len(scores) - 1:
        return float(at)
    before, here, after = (float(value) for value in scores[at - 1 : at + 2])
    bend = before - 2 * here + after
    return at if bend >= 0 else at + max(-0.5, min(0.5, (before - after) / (2 * bend)))


_RING = 0.25  # width of the ring, in square roots of the lesion's area
_GREY_LEVEL = 1.0  # so that flat images have no infinite contrast


def lesion_contrast(frame: GreyFrame, mask: npt.NDArray[np.bool_]) -> float:
    """Difference of mean brightness around a lesion and in it, in mean standard deviations.

    Args:
        frame: (H, W), uint8.
        mask: (H, W), bool.

    Returns:
        Positive for a dark lesion; 0 where there is no lesion or nothing around it.
    """
    import cv2

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0.0
    area = np.count_nonzero(mask)
    side = max(3, round(_RING * math.sqrt(area)) | 1)
    # Only the part around the lesion: dilating a whole frame takes milliseconds.
    part = (
        slice(max(0, rows[0] - side), rows[-1] + side + 1),
        slice(max(0, columns[0] - side), columns[-1] + side + 1),
    )
    inside, values = mask[part], frame[part]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    ring = (cv2.dilate(inside.astype(np.uint8), kernel) > 0) & ~inside
    if not ring.any():
        return 0.0
    lesion, around = values[inside].astype(np.float32), values[ring].astype(np.float32)
    spread = (float(lesion.std()) + float(around.std())) / 2 + _GREY_LEVEL
    return (float(around.mean()) - float(lesion.mean())) / spread


State = Literal["tracking", "uncertain", "lost", "stopped"]
Mask = npt.NDArray[np.bool_]

_STEP_REACH, _MARK_REACH = 0.25, 0.12
_LEAST_ANCHOR = 0.5
_SIZE_LEAK, _SIZE_LIMITS = 0.5, (0.7, 1.4)
_WEAK_CONTRAST = 0.2
_PROPOSE_AFTER = 10  # frames in which what was followed is not found by its looks


@dataclass(frozen=True)
class TrackerOptions:
    """When a lesion counts as found. docs/tracking.md says how the defaults were chosen.

    Attributes:
        certain_similarity: to what was marked, normalised cross-correlation; below it is uncertain.
        least_similarity: below that it is lost.
        certain_contrast: of the lesion to its surroundings, as part of that in the first frame;
            below it is uncertain.
        least_contrast: below that it is lost.
        certain_iou: part of the predicted IoU in the first frame; below it is uncertain.
        least_iou: below that it is lost.
        certain_growth: factor by which the area may differ from that in the first frame; above it
            is uncertain.
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
        state: "tracking"; "uncertain": there is a mask, look at it; "lost": there is none, it is
            looked for; "stopped": there is none, and there will be none.
        mask: (H, W), bool; None where it is lost.
        box: around the mask, XYXY, pixels; None where it is lost.
        predicted_iou: by the model; None where nothing was predicted.
        similarity: to what was marked, -1 to 1.
        contrast: to its surroundings, as part of that in the first frame; None where nothing was
            predicted.
        reason: why it is uncertain or lost; "" while it is tracked.
        was_found: whether it was lost in the frame before.
        quality: what is to be expected of the mask; None without one, and where the bundle has no
            calibration. Where the model proposed what is followed, the probability is times the
            proposal's score.
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
    quality: Quality | None = None


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
    quality: Quality | None


class LesionTracker:
    """Follows one lesion. Not for several threads at once.

    The box that a person has drawn is moved along: by the lesion's shift from the frame before, put
    right by its shift from the first frame, and by half of what the mask has grown. Masks alone do
    not make the next
    box: where an edge is weak, each would be a little smaller or larger than the one before.

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
        self._proposes = False
        self._score = 1.0  # of the proposal that is followed

    @property
    def state(self) -> State:
        """Of the last frame; "stopped" before the first."""
        return self._state

    def start(
        self, frame: GreyFrame, box: Box | None, *, embedding: Embedding | None = None
    ) -> TrackedFrame:
        """Begin with a lesion that a person has marked; also to begin anew.

        Args:
            frame: (H, W), uint8.
            box: XYXY around it, pixels; None to begin with what the model proposes, in this frame
                or the first one in which it proposes something, and to begin anew so where the
                lesion is not found again.
            embedding: of the frame, if it is encoded already.

        Raises:
            BadArgumentError: if the box is not one, or outside.
            BackendError: if the backend fails, or the bundle has no lesion proposer.
        """
        self._index, self._mark = 0, None
        self._proposes, self._score = box is None, 1.0
        if box is None:
            return self._look(frame, embedding)
        return self._begin(frame, box, embedding)

    def _look(self, frame: GreyFrame, embedding: Embedding | None) -> TrackedFrame:
        """Begin with what the model proposes, if it does."""
        embedding = self._segmenter.encode(frame) if embedding is None else embedding
        found = self._segmenter.propose(embedding)
        box = box_around(_largest_part(found.masks[0, 0])) if len(found.masks) else None
        if box is None or box[0] == box[2] or box[1] == box[3]:
            self._state = "lost"
            reason = "no lesion is proposed"
            return TrackedFrame(self._index, "lost", None, None, None, 0.0, None, reason)
        assert found.proposals is not None
        was_lost, self._score = self._mark is not None, float(found.proposals.scores[0])
        begun = self._begin(frame, box, embedding)
        if begun.mask is None:
            self._mark, self._state = None, "lost"
            return replace(begun, state="lost")
        self._state = "uncertain"
        reason = "it is proposed by the model, not marked by a person"
        return replace(begun, state="uncertain", reason=reason, was_found=was_lost)

    def _begin(self, frame: GreyFrame, box: Box, embedding: Embedding | None) -> TrackedFrame:
        found = self._segment(frame, box, embedding)
        self._lost_for = 0
        self._shift, self._scale = (0.0, 0.0), (1.0, 1.0)
        if found.box is None:
            self._mark, self._state = None, "stopped"
            reason = "there is no lesion in the box"
            return TrackedFrame(
                self._index, "stopped", None, None, found.predicted_iou, 0.0, None, reason
            )
        appearance = Appearance(frame, box)
        area = int(np.count_nonzero(found.mask))
        self._mark = _Mark(box, appearance, found.box, area, found.predicted_iou, found.contrast)
        self._before = appearance
        reason = "" if appearance.is_usable else "it is too small or too flat to be followed"
        self._state = "uncertain" if reason else "tracking"
        scores = (found.predicted_iou, 1.0, 1.0)
        return TrackedFrame(
            *(self._index, self._state, found.mask, found.box, *scores, reason),
            quality=found.quality,
        )

    def update(self, frame: GreyFrame, *, embedding: Embedding | None = None) -> TrackedFrame:
        """Go on to the next frame.

        Args:
            frame: (H, W), uint8, as large as the one before.
            embedding: of the frame, if it is encoded already.

        Raises:
            RuntimeError: before `start`.
            BadArgumentError: if the frame has another size.
            BackendError: if the backend fails.
        """
        if self._index < 0:
            raise RuntimeError("nothing is tracked yet. Call start() with a frame and a box.")
        self._index += 1
        if self._mark is None and self._proposes:
            return self._look(frame, embedding)
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
        if most is not None and self._lost_for > most and not self._proposes:
            self._state = "stopped"
            reason = f"not found in {most} frames; mark it again"
            return TrackedFrame(self._index, "stopped", None, None, None, 0.0, None, reason)
        anchored = mark.appearance.find(frame)
        if anchored.similarity < self._options.found_similarity:
            if self._proposes and self._lost_for > _PROPOSE_AFTER:
                return self._look(frame, embedding)
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
            found.quality,
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
        contrast, (quality,) = lesion_contrast(frame, mask), prediction.quality or (None,)
        if quality is not None:
            quality = quality.doubted(self._score)
        return _Mask(mask, None if is_line else around, iou, contrast, quality)


def _grown(box: Box, first: Box) -> tuple[float, float]:
    """By how much the prompt is scaled: half of what the mask has grown, within limits."""
    scales = []
    for axis in (0, 1):
        ratio = (box[axis + 2] - box[axis]) / (first[axis + 2] - first[axis])
        scales.append(min(max(1 + _SIZE_LEAK * (ratio - 1), _SIZE_LIMITS[0]), _SIZE_LIMITS[1]))
    return scales[0], scales[1]


def _largest_part(mask: Mask) -> Mask:
    """Islands are no part of the lesion that is followed."""
    import cv2

    count, labels, statistics, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    if count <= 2:
        return mask
    largest: Mask = labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    return largest
