"""One frame, or one prompt, as one precision answers it beside the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from samus_edge.data.prompt_protocol import prompt_arrays
from samus_edge.errors import BackendError, ExportMismatchError
from samus_edge.evaluation.metrics import Mask, dice, iou
from samus_edge.runtime.backends.backend import FloatTensor, GraphSession, Tensor
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.bundle.bundle import Bundle, open_bundle_graph
from samus_edge.runtime.bundle.manifest import (
    IMAGE_ENCODER,
    MASK_DECODER,
    GraphRecord,
    TensorSpec,
    mask_input_hw,
)
from samus_edge.runtime.prediction import mask_decoder_feeds, masks_from_logits
from samus_edge.runtime.prompts import check_prompts, decoder_prompts
from samus_edge.verification.frames import CalibrationFrame
from samus_edge.verification.subjects import DecodedPrompts

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = [
    "FP32_TOLERANCE",
    "QUANTISED_TOLERANCE",
    "FrameComparison",
    "PromptComparison",
    "absolute_difference",
    "check_served_graph",
    "compare_frame",
    "compare_prompt",
]


FP32_TOLERANCE = 1e-4
"""Largest absolute difference in float32: only the order of sums differs between batches and rows."""

QUANTISED_TOLERANCE = 0.02
"""In any other precision, as a share of the largest output: a sum in another order may round to
another step. Rows that were mixed up differ by about the largest output."""

_ROWS = 3
# Odd where an axis may have any size, so that paddings and remainders are in it.
_FREE_SIZE = 37
_POINTS = 3
_SEED = 0

Feeds = dict[str, npt.NDArray[Any]]


def check_served_graph(served: bytes, original: bytes, record: GraphRecord) -> float:
    """Run a changed graph on three rows at once, and the bundle's graph on each row alone.

    Rows are random: bytes for uint8, a normal distribution for float32, corners of a box for the
    points of a prompt. Each row has its own image embeddings, so a decoder that mixes rows, or gives
    all of them the first image, differs.

    Args:
        served: the changed graph, in one file.
        original: the bundle's graph, in one file.
        record: its record, for the inputs.

    Returns:
        The largest absolute difference of any output; logits and embeddings are of the order of 1 to
        30.

    Raises:
        ExportMismatchError: if an output differs by more than the tolerance of the record's precision,
            or is not a number.
    """
    rng = np.random.default_rng(_SEED)
    feeds = {spec.name: _random(spec, rng) for spec in record.inputs}
    batched = _run(served, feeds)
    largest = 0.0
    single = _session(original)
    for row in range(_ROWS):
        expected = single.run(None, {name: value[row : row + 1] for name, value in feeds.items()})
        for got, want in zip(batched, expected, strict=True):
            difference = float(np.abs(got[row : row + 1] - want).max())
            largest = difference if np.isnan(difference) else max(largest, difference)
            tolerance = FP32_TOLERANCE
            if record.precision != "fp32":
                tolerance = QUANTISED_TOLERANCE * float(np.abs(want).max())
            if not difference <= tolerance:  # also where it is not a number
                raise ExportMismatchError(
                    f"the graph made from {record.file} gives row {row} of {_ROWS} outputs that "
                    f"differ by {difference:.2e} from the bundle's, more than {tolerance:.1e}. "
                    "Export the bundle again; if that does not help, please report it."
                )
    return largest


def _run(graph: bytes, feeds: Feeds) -> list[npt.NDArray[np.float32]]:
    outputs: list[npt.NDArray[np.float32]] = _session(graph).run(None, feeds)
    return outputs


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _random(spec: TensorSpec, rng: np.random.Generator) -> npt.NDArray[Any]:
    """(3, ...) of random values for an input."""
    free_size = _POINTS if spec.name.startswith("point_") else _FREE_SIZE
    shape = (_ROWS, *(size if isinstance(size, int) else free_size for size in spec.shape[1:]))
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if spec.name == "point_coords":
        return rng.uniform(0, 255, shape).astype(np.float32)
    if spec.name == "point_labels":
        return np.tile(np.array([2, 3, 1], np.float32), (_ROWS, 1))
    if spec.name == "has_mask_input":
        return np.array([[0], [1], [1]], np.float32)
    return rng.standard_normal(shape, np.float32)


DICE_POINTS = 100.0


@dataclass(frozen=True)
class MaskAgreement:
    """How masks of a changed image encoder compare with those of the reference.

    Attributes:
        logit_error: mean absolute difference of the low-resolution logits.
        mask_dice: mean Dice between the two masks, 0..1.
        dice_drop: how many Dice points (0..100) the lesions' masks lose, in the mean; where lesions
            are not known, ``100 * (1 - mask_dice)``, which does not count what changes for the better.
    """

    logit_error: float
    mask_dice: float
    dice_drop: float


class MaskComparison:
    """Runs image encoders on the same frames with a bundle's own mask decoder.

    Args:
        bundle: its reference graphs are what others are compared with.
        frames: with prompts.
        threads: CPU threads; None for all cores.
    """

    def __init__(
        self, bundle: Bundle, frames: Sequence[CalibrationFrame], threads: int | None = None
    ) -> None:
        self._frames = frames
        self._backend = OnnxRuntimeBackend(threads)
        self._encoder_record = bundle.graph_record(IMAGE_ENCODER)
        decoder = bundle.graph_record(MASK_DECODER)
        self._mask_input_hw = mask_input_hw(decoder)
        self._decoder = open_bundle_graph(self._backend, bundle, MASK_DECODER)
        self._model_size = bundle.manifest.prompts.size
        self._threshold = bundle.manifest.mask_threshold
        encoder = open_bundle_graph(self._backend, bundle, IMAGE_ENCODER)
        self._embeddings = self._encode(encoder)
        self._reference = self._decode(self._embeddings)

    def compare(self, image_encoder: "ModelProto") -> MaskAgreement:
        """Compare an image encoder with the reference.

        Args:
            image_encoder: with the inputs and outputs of the bundle's.
        """
        session = self._backend.open_graph(
            IMAGE_ENCODER, image_encoder.SerializeToString(), self._encoder_record
        )
        errors, agreements, drops = [], [], []
        for frame, logits, expected in zip(
            self._frames, self._decode(self._encode(session)), self._reference, strict=True
        ):
            errors.append(float(np.abs(logits - expected).mean()))
            masks, reference_masks = self._masks(frame, logits), self._masks(frame, expected)
            for mask, reference in zip(masks, reference_masks, strict=True):
                agreement = dice(mask, reference)
                agreements.append(agreement)
                if frame.target is None:
                    drops.append(1.0 - agreement)
                else:
                    drops.append(dice(reference, frame.target) - dice(mask, frame.target))
        return MaskAgreement(
            logit_error=float(np.mean(errors)),
            mask_dice=float(np.mean(agreements)),
            dice_drop=DICE_POINTS * float(np.mean(drops)),
        )

    def decoder_feeds(self) -> list[dict[str, Tensor]]:
        """What the mask decoder was fed for the reference, one entry for each frame and prompt.

        Each is followed by the same prompt with the logits that it gave: as when a mask is refined.
        """
        entries = []
        for frame, embeddings, logits in zip(
            self._frames, self._embeddings, self._reference, strict=True
        ):
            for feeds, earlier in zip(self._feeds(frame, embeddings), logits, strict=True):
                refining: dict[str, Tensor] = {
                    "mask_input": earlier[None],
                    "has_mask_input": np.ones((1, 1), np.float32),
                }
                entries += [feeds, {**feeds, **refining}]
        return entries

    def _encode(self, encoder: GraphSession) -> list[FloatTensor]:
        """Embeddings of every frame, (1, C, h, w) each."""
        return [
            encoder.run({"image": frame.image[None]})["image_embeddings"] for frame in self._frames
        ]

    def _decode(self, embeddings: Sequence[FloatTensor]) -> list[FloatTensor]:
        """Logits of every frame's prompts, (prompts, 1, h, w) each."""
        return [
            np.concatenate(
                [
                    self._decoder.run(feeds)["low_res_masks"][:, :1]
                    for feeds in self._feeds(frame, each)
                ]
            )
            for frame, each in zip(self._frames, embeddings, strict=True)
        ]

    def _feeds(self, frame: CalibrationFrame, embeddings: FloatTensor) -> list[dict[str, Tensor]]:
        """Of a frame's prompts, one by one: they differ in their number of points."""
        feeds = []
        for prompt in frame.prompts:
            arrays = prompt_arrays([prompt])
            checked = check_prompts(
                (frame.image.shape[0], frame.image.shape[1]),
                boxes=arrays.boxes,
                point_coords=arrays.point_coords,
                point_labels=arrays.point_labels,
                mask_input_hw=self._mask_input_hw,
            )
            (group,) = decoder_prompts(checked, self._model_size)
            feeds.append(mask_decoder_feeds(embeddings, group, None, self._mask_input_hw))
        return feeds

    def _masks(self, frame: CalibrationFrame, logits: FloatTensor) -> Mask:
        height, width = frame.image.shape
        masks: Mask = masks_from_logits(logits, (height, width), self._threshold)[:, 0]
        return masks


@dataclass(frozen=True)
class FrameComparison:
    """The image embeddings of one frame.

    Attributes:
        is_finite: whether all of them are.
        cosine: similarity to the reference's embeddings, -1..1; None unless both are finite.
        error: largest absolute difference to them; None unless both are finite.
        largest: largest absolute value that is finite; None if none is.
    """

    is_finite: bool
    cosine: float | None
    error: float | None
    largest: float | None


@dataclass(frozen=True)
class PromptComparison:
    """The answer to one prompt.

    Attributes:
        prompt: name of the kind of prompt.
        case: name of the frame.
        instance: number of the lesion in its frame, from 0.
        group: prompts that share it are no independent evidence.
        is_finite: whether all logits and predicted IoU are.
        logit_error_max: largest absolute difference of the low-resolution logits to the reference's,
            over all four masks; None unless both are finite.
        logit_error_mean: mean of the same.
        mask_iou: IoU with the reference's mask at frame size, 0..1; 1 where both are empty.
        iou_prediction_error: absolute difference of the predicted IoU of the mask; None unless both
            are finite.
        iou_prediction: the precision's own; None unless finite.
        largest_logit: largest absolute logit that is finite; None if none is.
        is_empty: whether the mask is.
        dice_reference: Dice of the reference's mask with the true one; None where that is not known.
        dice: Dice of the precision's mask with the true one; None where that is not known.
    """

    prompt: str
    case: str
    instance: int
    group: str
    is_finite: bool
    logit_error_max: float | None
    logit_error_mean: float | None
    mask_iou: float
    iou_prediction_error: float | None
    iou_prediction: float | None
    largest_logit: float | None
    is_empty: bool
    dice_reference: float | None
    dice: float | None


def compare_frame(embeddings: FloatTensor, reference: FloatTensor) -> FrameComparison:
    """Compare (1, C, h, w) embeddings with the reference's.

    Raises:
        BackendError: if the shapes differ.
    """
    _check_shapes("image_embeddings", embeddings, reference)
    is_finite = bool(np.isfinite(embeddings).all())
    cosine, error = None, None
    if is_finite and np.isfinite(reference).all():
        cosine = _cosine(embeddings, reference)
        error = float(absolute_difference(embeddings, reference).max())
    return FrameComparison(is_finite, cosine, error, _largest(embeddings))


def compare_prompt(
    *,
    prompt: str,
    case: str,
    instance: int,
    group: str,
    decoded: tuple[DecodedPrompts, DecodedPrompts],
    masks: tuple[Mask, Mask],
    target: Mask | None,
) -> PromptComparison:
    """Compare the answer to one prompt with the reference's.

    Args:
        prompt: name of the kind of prompt.
        case: name of the frame.
        instance: which of the N prompts.
        group: of the frame.
        decoded: the precision's answer to all N prompts, and the reference's.
        masks: (H, W) of this prompt: the precision's, and the reference's.
        target: (H, W) true mask; None where it is not known.

    Raises:
        BackendError: if shapes differ.
    """
    own, reference = decoded
    mask, reference_mask = masks
    logits, expected = own.low_res_masks[instance], reference.low_res_masks[instance]
    _check_shapes("low_res_masks", logits, expected)
    is_finite = bool(own.is_finite[instance])
    iou_prediction = float(own.iou_predictions[instance, 0])
    error_max, error_mean, iou_error = None, None, None
    if is_finite and reference.is_finite[instance]:
        difference = absolute_difference(logits, expected)
        error_max, error_mean = float(difference.max()), float(difference.mean())
        iou_error = abs(iou_prediction - float(reference.iou_predictions[instance, 0]))
    return PromptComparison(
        prompt=prompt,
        case=case,
        instance=instance,
        group=group,
        is_finite=is_finite,
        logit_error_max=error_max,
        logit_error_mean=error_mean,
        mask_iou=iou(mask, reference_mask),
        iou_prediction_error=iou_error,
        iou_prediction=iou_prediction if is_finite else None,
        largest_logit=_largest(logits),
        is_empty=not mask.any(),
        dice_reference=None if target is None else dice(reference_mask, target),
        dice=None if target is None else dice(mask, target),
    )


def absolute_difference(first: FloatTensor, second: FloatTensor) -> npt.NDArray[np.float64]:
    """Of two arrays of one shape; in float64, in which finite float32 numbers cannot overflow."""
    return np.abs(first.astype(np.float64) - second)


def _cosine(first: FloatTensor, second: FloatTensor) -> float:
    """Cosine similarity of the flattened arrays; 1 where both are zero, 0 where one is."""
    a, b = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if 0.0 in norms:
        return float(norms == (0.0, 0.0))
    return float(a @ b) / (norms[0] * norms[1])


def _largest(values: npt.NDArray[np.float32]) -> float | None:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else None


def _check_shapes(name: str, found: FloatTensor, expected: FloatTensor) -> None:
    if found.shape != expected.shape:
        raise BackendError(
            f"{name} have the shape {found.shape}, and those of the reference {expected.shape}"
        )
