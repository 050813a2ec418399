"""The one comparator: predictions of two graphs, precisions or models beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.prompt_protocol import Prompt, prompt_arrays
from samus_edge.errors import BackendError, ExportMismatchError
from samus_edge.evaluation.metrics import dice, iou
from samus_edge.runtime.agreement import cosine_similarity, largest_difference
from samus_edge.runtime.backends.backend import Backend, FloatTensor, Tensor, open_bundle_graph
from samus_edge.runtime.backends.onnxruntime_backend import CPU_PROVIDER, OnnxRuntimeBackend, ort
from samus_edge.runtime.bundle.bundle import Bundle, reference_precision, select_graphs
from samus_edge.runtime.bundle.manifest import (
    IMAGE_ENCODER,
    MASK_DECODER,
    GraphRecord,
    TensorSpec,
    check_graph,
    mask_input_hw,
)
from samus_edge.runtime.prediction import decode_prompts, mask_decoder_feeds, masks_from_logits
from samus_edge.runtime.prompts import Prompts, check_prompts, decoder_prompts
from samus_edge.verification.frames import PromptedFrame

if TYPE_CHECKING:
    from onnx import ModelProto

DICE_POINTS: Final = 100.0
"""Dice points in a Dice of 1."""


@dataclass(frozen=True, eq=False)
class DecodedPrompts:
    """The mask decoder's answer to N prompts.

    Attributes:
        low_res_masks: (N, 4, h, w), float32, logits; may hold NaN.
        iou_predictions: (N, 4), float32; may hold NaN.
    """

    low_res_masks: FloatTensor
    iou_predictions: FloatTensor

    @property
    def is_finite(self) -> npt.NDArray[np.bool_]:
        """(N,): whether all that belongs to a prompt is finite."""
        masks = np.isfinite(self.low_res_masks).all(axis=(1, 2, 3))
        return np.asarray(masks & np.isfinite(self.iou_predictions).all(axis=1))


class PrecisionGraphs:
    """The image encoder and the mask decoder of one precision, run without the runtime's refusals.

    `samus_edge.runtime.Segmenter` raises on NaN and gives one mask of four or three; here NaN is
    given back, and all four masks are.

    Args:
        bundle: an opened bundle.
        precision: one that it has.
        backend: the engine that runs them.

    Raises:
        BundleError: if a graph is damaged or not what the runtime needs.
        BackendError: if the bundle lacks the precision, or the backend cannot run the graphs.
    """

    def __init__(self, bundle: Bundle, precision: str, backend: Backend) -> None:
        graphs = select_graphs(bundle, precision)
        encoder = bundle.graph_record(graphs.image_encoder)
        decoder = bundle.graph_record(graphs.mask_decoder)
        check_graph(IMAGE_ENCODER, encoder)
        check_graph(MASK_DECODER, decoder)
        self._mask_input_hw = mask_input_hw(decoder)
        self._model_size = bundle.manifest.prompts.size
        self._threshold = bundle.manifest.mask_threshold
        self._encoder = open_bundle_graph(backend, bundle, graphs.image_encoder)
        self._decoder = open_bundle_graph(backend, bundle, graphs.mask_decoder)

    def encode(self, image: npt.NDArray[np.uint8]) -> FloatTensor:
        """The (1, C, h, w) float32 embeddings of a (H, W) grey frame.

        Raises:
            BackendError: if the backend fails.
        """
        return self._encoder.run({"image": image[None]})["image_embeddings"]

    def decode(
        self, embeddings: FloatTensor, original_hw: tuple[int, int], prompts: Sequence[Prompt]
    ) -> DecodedPrompts:
        """Answer at least one prompt, all of one kind.

        Args:
            embeddings: (1, C, h, w), float32, from `encode`.
            original_hw: (H, W) of the frame, pixels.
            prompts: N prompts in pixels of the frame.

        Raises:
            BadArgumentError: if a prompt lies outside the frame.
            BackendError: if the backend fails.
        """
        checked = self._checked(original_hw, prompts)
        return DecodedPrompts(
            *decode_prompts(
                self._decoder, embeddings, checked, self._model_size, self._mask_input_hw
            )
        )

    def feeds(
        self, embeddings: FloatTensor, original_hw: tuple[int, int], prompts: Sequence[Prompt]
    ) -> list[dict[str, Tensor]]:
        """What the mask decoder is fed for each group of prompts; arguments as `decode`."""
        checked = self._checked(original_hw, prompts)
        return [
            mask_decoder_feeds(embeddings, group, None, self._mask_input_hw)
            for group in decoder_prompts(checked, self._model_size)
        ]

    def masks(self, decoded: DecodedPrompts, original_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """(N, H, W): the one mask of each prompt; pixels whose logit is NaN do not belong to it."""
        return masks_from_logits(decoded.low_res_masks[:, :1], original_hw, self._threshold)[:, 0]

    def _checked(self, original_hw: tuple[int, int], prompts: Sequence[Prompt]) -> Prompts:
        arrays = prompt_arrays(prompts)
        return check_prompts(
            original_hw,
            boxes=arrays.boxes,
            point_coords=arrays.point_coords,
            point_labels=arrays.point_labels,
            mask_input_hw=self._mask_input_hw,
        )


@dataclass(frozen=True)
class FrameComparison:
    """The image embeddings of one frame.

    Attributes:
        is_finite: whether all of them are.
        cosine: similarity to the reference's embeddings, -1..1; None unless both are finite.
        error: largest absolute difference from them; None unless both are finite.
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
        logit_error_max: largest absolute difference of the low-resolution logits, over all four
            masks; None unless both are finite.
        logit_error_mean: mean of the same.
        mask_iou: IoU with the reference's mask at frame size, 0..1; 1 where both are empty.
        iou_prediction_error: absolute difference of the mask's predicted IoU; None unless both are
            finite.
        iou_prediction: the precision's own; None unless finite.
        largest_logit: largest absolute logit that is finite; None if none is.
        is_empty: whether the mask is.
        dice_reference: Dice of the reference's mask with the true one; None where that is unknown.
        dice: Dice of the precision's mask with the true one; None where that is unknown.
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
        cosine = cosine_similarity(embeddings, reference)
        error = largest_difference(embeddings, reference)
    return FrameComparison(is_finite, cosine, error, _largest(embeddings))


def compare_prompts(
    frame: PromptedFrame,
    kind: str,
    decoded: tuple[DecodedPrompts, DecodedPrompts],
    masks: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
) -> list[PromptComparison]:
    """Compare the answers to all prompts of one kind with the reference's.

    Args:
        frame: the frame with its N prompts of each kind.
        kind: name of the kind of prompt.
        decoded: the precision's answers, and the reference's.
        masks: (N, H, W) masks of the precision, and of the reference.

    Raises:
        BackendError: if shapes differ.
    """
    own, reference = decoded
    _check_shapes("low_res_masks", own.low_res_masks, reference.low_res_masks)
    own_finite, both_finite = own.is_finite, own.is_finite & reference.is_finite
    compared = []
    for instance, (mask, reference_mask) in enumerate(zip(*masks, strict=True)):
        logits, expected = own.low_res_masks[instance], reference.low_res_masks[instance]
        iou_prediction = float(own.iou_predictions[instance, 0])
        error_max, error_mean, iou_error = None, None, None
        if both_finite[instance]:
            error_max = largest_difference(logits, expected)
            error_mean = float(np.abs(logits.astype(np.float64) - expected).mean())
            iou_error = abs(iou_prediction - float(reference.iou_predictions[instance, 0]))
        target = None if frame.targets is None else frame.targets[instance]
        compared.append(
            PromptComparison(
                prompt=kind,
                case=frame.name,
                instance=instance,
                group=frame.group,
                is_finite=bool(own_finite[instance]),
                logit_error_max=error_max,
                logit_error_mean=error_mean,
                mask_iou=iou(mask, reference_mask),
                iou_prediction_error=iou_error,
                iou_prediction=iou_prediction if own_finite[instance] else None,
                largest_logit=_largest(logits),
                is_empty=not mask.any(),
                dice_reference=None if target is None else dice(reference_mask, target),
                dice=None if target is None else dice(mask, target),
            )
        )
    return compared


def _largest(values: FloatTensor) -> float | None:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else None


def _check_shapes(name: str, found: FloatTensor, expected: FloatTensor) -> None:
    if found.shape != expected.shape:
        raise BackendError(
            f"{name} have the shape {found.shape}, and those of the reference {expected.shape}"
        )


@dataclass(frozen=True)
class MaskAgreement:
    """How masks of a changed image encoder compare with those of the reference.

    Attributes:
        logit_error: mean absolute difference of the low-resolution logits.
        mask_dice: mean Dice between the two masks, 0..1.
        dice_drop: how many Dice points (0..100) the lesions' masks lose, in the mean; where lesions
            are not known, ``100 * (1 - mask_dice)``, which does not count what changes for the
            better.
    """

    logit_error: float
    mask_dice: float
    dice_drop: float


class MaskComparison:
    """Runs image encoders on the same frames with a bundle's own mask decoder.

    Args:
        bundle: the bundle whose reference graphs the others are compared with.
        frames: frames with prompts.
        threads: CPU threads; None for all cores.
    """

    def __init__(
        self, bundle: Bundle, frames: Sequence[PromptedFrame], threads: int | None = None
    ) -> None:
        self._frames = frames
        self._backend = OnnxRuntimeBackend(threads)
        self._encoder_record = bundle.graph_record(IMAGE_ENCODER)
        self._graphs = PrecisionGraphs(bundle, reference_precision(bundle), self._backend)
        self._embeddings = [self._graphs.encode(frame.image) for frame in frames]
        self._reference = [
            self._decode(frame, embeddings)
            for frame, embeddings in zip(frames, self._embeddings, strict=True)
        ]

    def compare(self, image_encoder: "ModelProto") -> MaskAgreement:
        """Compare an image encoder with the reference.

        Args:
            image_encoder: a graph with the inputs and outputs of the bundle's.
        """
        session = self._backend.open_graph(
            IMAGE_ENCODER, image_encoder.SerializeToString(), self._encoder_record
        )
        errors, agreements, drops = [], [], []
        for frame, reference in zip(self._frames, self._reference, strict=True):
            embeddings = session.run({"image": frame.image[None]})["image_embeddings"]
            own = self._decode(frame, embeddings)
            for kind, expected in reference.items():
                logits = own[kind].low_res_masks[:, :1], expected.low_res_masks[:, :1]
                errors += np.abs(logits[0] - logits[1]).mean(axis=(1, 2, 3)).tolist()
                masks, reference_masks = (
                    self._graphs.masks(each, frame.hw) for each in (own[kind], expected)
                )
                pairs = zip(masks, reference_masks, strict=True)
                for instance, (mask, reference_mask) in enumerate(pairs):
                    agreement = dice(mask, reference_mask)
                    agreements.append(agreement)
                    if frame.targets is None:
                        drops.append(1.0 - agreement)
                    else:
                        target = frame.targets[instance]
                        drops.append(dice(reference_mask, target) - dice(mask, target))
        return MaskAgreement(
            logit_error=float(np.mean(errors)),
            mask_dice=float(np.mean(agreements)),
            dice_drop=DICE_POINTS * float(np.mean(drops)),
        )

    def decoder_feeds(self) -> list[dict[str, Tensor]]:
        """What the mask decoder was fed for the reference.

        Each entry is followed by the same prompts with the logits that they gave, as when masks are
        refined.
        """
        entries = []
        for frame, embeddings, reference in zip(
            self._frames, self._embeddings, self._reference, strict=True
        ):
            for kind, decoded in reference.items():
                for prompt, logits in zip(
                    frame.prompts[kind], decoded.low_res_masks[:, :1], strict=True
                ):
                    (feeds,) = self._graphs.feeds(embeddings, frame.hw, [prompt])
                    refining: dict[str, Tensor] = {
                        "mask_input": logits[None],
                        "has_mask_input": np.ones((1, 1), np.float32),
                    }
                    entries += [feeds, {**feeds, **refining}]
        return entries

    def _decode(self, frame: PromptedFrame, embeddings: FloatTensor) -> dict[str, DecodedPrompts]:
        return {
            kind: self._graphs.decode(embeddings, frame.hw, prompts)
            for kind, prompts in frame.prompts.items()
        }


FP32_TOLERANCE = 1e-4
"""Largest absolute difference in float32: only the order of sums differs between batches and
rows."""

QUANTISED_TOLERANCE = 0.02
"""In any other precision, as a share of the largest output: a sum in another order may round to
another step. Rows that were mixed up differ by about the largest output."""

_ROWS = 3
# Odd where an axis may have any size, so that paddings and remainders are in it.
_FREE_SIZE = 37
_POINTS = 3
_SEED = 0


def check_served_graph(served: bytes, original: bytes, record: GraphRecord) -> float:
    """Run a changed graph on three rows at once, and the bundle's graph on each row alone.

    Rows are random: bytes for uint8, a normal distribution for float32, corners of a box for the
    points of a prompt. Each row has its own image embeddings, so a decoder that mixes rows, or
    gives all of them the first image, differs.

    Args:
        served: the changed graph, in one file.
        original: the bundle's graph, in one file.
        record: its record, for the inputs.

    Returns:
        The largest absolute difference of any output; logits and embeddings are of the order of 1
        to 30.

    Raises:
        ExportMismatchError: if an output differs by more than the tolerance of the record's
            precision, or is not a number.
    """
    rng = np.random.default_rng(_SEED)
    feeds = {spec.name: _random_rows(spec, rng) for spec in record.inputs}
    batched = open_onnx(served).run(None, feeds)
    single = open_onnx(original)
    largest = 0.0
    for row in range(_ROWS):
        expected = single.run(None, {name: value[row : row + 1] for name, value in feeds.items()})
        for got, want in zip(batched, expected, strict=True):
            difference = largest_difference(got[row : row + 1], want)
            largest = max(largest, difference)
            tolerance = FP32_TOLERANCE
            if record.precision != "fp32":
                tolerance = QUANTISED_TOLERANCE * float(np.abs(want).max())
            if not difference <= tolerance:  # also where the bundle's own is not a number
                raise ExportMismatchError(
                    f"the graph made from {record.file} gives row {row} of {_ROWS} outputs that "
                    f"differ by {difference:.2e} from the bundle's, more than {tolerance:.1e}. "
                    "Export the bundle again; if that does not help, please report it."
                )
    return largest


def open_onnx(graph: bytes | str) -> ort.InferenceSession:
    """A graph, or the file of one, on ONNX Runtime's CPU provider as it is, without a record."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of weights
    return ort.InferenceSession(graph, options, providers=[CPU_PROVIDER])


def _random_rows(spec: TensorSpec, rng: np.random.Generator) -> npt.NDArray[Any]:
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
