"""What a changed image encoder does to the masks: logits, agreement and Dice, on the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from samus_edge.calibration.calibration_frames import CalibrationFrame
from samus_edge.evaluation.metrics import dice
from samus_edge.evaluation.prompt import prompt_arrays
from samus_edge.runtime.backend import FloatTensor, GraphSession, Tensor
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.bundle_graph import open_bundle_graph
from samus_edge.runtime.graph_contract import IMAGE_ENCODER, MASK_DECODER, mask_input_hw
from samus_edge.runtime.mask_decoder_feeds import mask_decoder_feeds
from samus_edge.runtime.mask_upsampling import masks_from_logits
from samus_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.prompts import check_prompts, decoder_prompts

DICE_POINTS = 100.0

Mask = npt.NDArray[np.bool_]


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

    def compare(self, image_encoder: ModelProto) -> MaskAgreement:
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
