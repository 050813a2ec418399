"""Both graphs of one precision of a bundle, run without the runtime's refusals.

`samus_edge.runtime.Segmenter` raises on NaN and gives one mask of four; a verification counts the NaN
and compares all four.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samus_edge.data.prompt_protocol import Prompt, prompt_arrays
from samus_edge.runtime.backends.backend import Backend, FloatTensor
from samus_edge.runtime.bundle.bundle import Bundle, open_bundle_graph, select_graphs
from samus_edge.runtime.bundle.manifest import (
    IMAGE_ENCODER,
    MASK_DECODER,
    MASKS_PER_PROMPT,
    check_image_encoder,
    check_mask_decoder,
    mask_input_hw,
)
from samus_edge.runtime.prediction import mask_decoder_feeds, masks_from_logits
from samus_edge.runtime.prompts import check_prompts, decoder_prompts

__all__ = ["DecodedPrompts", "PrecisionGraphs"]


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
    """The image encoder and the mask decoder of one precision, ready to run.

    Args:
        bundle: an opened bundle.
        precision: one that it has.
        backend: what runs them.

    Raises:
        BundleError: if a graph is damaged or not what the runtime needs.
        BackendError: if the bundle has not the precision, or the backend cannot run the graphs.
    """

    def __init__(self, bundle: Bundle, precision: str, backend: Backend) -> None:
        graphs = select_graphs(bundle, precision)
        encoder = bundle.graph_record(graphs.image_encoder)
        decoder = bundle.graph_record(graphs.mask_decoder)
        check_image_encoder(encoder)
        check_mask_decoder(decoder)
        self.precision = precision
        self.hashes = {IMAGE_ENCODER: encoder.sha256, MASK_DECODER: decoder.sha256}
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
            embeddings: (1, C, h, w), float32, of `encode`.
            original_hw: (H, W) of the frame, pixels.
            prompts: in pixels of the frame.

        Raises:
            ValueError: if a prompt lies outside the frame.
            BackendError: if the backend fails.
        """
        arrays = prompt_arrays(prompts)
        checked = check_prompts(
            original_hw,
            boxes=arrays.boxes,
            point_coords=arrays.point_coords,
            point_labels=arrays.point_labels,
            mask_input_hw=self._mask_input_hw,
        )
        masks = np.empty((len(checked), MASKS_PER_PROMPT, *self._mask_input_hw), np.float32)
        ious = np.empty((len(checked), MASKS_PER_PROMPT), np.float32)
        for group in decoder_prompts(checked, self._model_size):
            feeds = mask_decoder_feeds(embeddings, group, None, self._mask_input_hw)
            outputs = self._decoder.run(feeds)
            masks[group.rows] = outputs["low_res_masks"]
            ious[group.rows] = outputs["iou_predictions"]
        return DecodedPrompts(masks, ious)

    def masks(self, decoded: DecodedPrompts, original_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """(N, H, W): the one mask of each prompt; pixels whose logit is NaN do not belong to it."""
        return masks_from_logits(decoded.low_res_masks[:, :1], original_hw, self._threshold)[:, 0]
