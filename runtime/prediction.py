"""From embeddings and prompts to masks, and how far two predictions are apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.backends.backend import Tensor
from samus_edge.runtime.bundle.manifest import MASKS_PER_PROMPT
from samus_edge.runtime.prompts import DecoderPrompts, Prompts, decoder_prompts

if TYPE_CHECKING:
    from samus_edge.runtime.backends.gpu.device import DeviceTensor

__all__ = [
    "Embedding",
    "Prediction",
    "decode_prompts",
    "mask_decoder_feeds",
    "masks_from_logits",
    "upsample_logits",
]


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
    """

    tensor: "npt.NDArray[np.float32] | DeviceTensor"
    original_hw: tuple[int, int]
    encoder_sha256: str

    @property
    def image_embeddings(self) -> npt.NDArray[np.float32]:
        """(1, C, h, w), float32, in memory of the host; copied there from a GPU, every time."""
        return self.tensor if isinstance(self.tensor, np.ndarray) else self.tensor.numpy()


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
    """

    masks: npt.NDArray[np.bool_]
    low_res_logits: npt.NDArray[np.float32]
    iou_predictions: npt.NDArray[np.float32]
    original_hw: tuple[int, int]
