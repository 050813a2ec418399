"""A torch model behind the interface of the runtime's Segmenter."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime import Prediction
from samus_edge.runtime.prediction import (
    MULTIMASK,
    SINGLE_MASK,
    Logits,
    decode_prompts,
    masks_from_logits,
    predict_masks,
)
from samus_edge.runtime.prompts import Prompts, check_prompts
from samus_edge.weights.model_file import load_model

MASK_THRESHOLD = 0.0


@dataclass(frozen=True, eq=False)
class TorchEmbedding:
    """An encoded image.

    Attributes:
        tensor: (1, C, h, w), float32.
        original_hw: (H, W) of the image, pixels.
    """

    tensor: torch.Tensor
    original_hw: tuple[int, int]

    @property
    def image_embeddings(self) -> npt.NDArray[np.float32]:
        """The same as an array, as of the runtime's embedding."""
        return np.asarray(self.tensor.numpy())


class _TorchDecoder:
    """The model's mask decoder behind the interface of a graph."""

    def __init__(self, model: SamusHF) -> None:
        self._model = model

    def largest(self, name: str, axis: int) -> int | None:
        return None

    def run(self, feeds: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        masks, ious = self._model.decode(*(torch.as_tensor(feed) for feed in feeds.values()))
        return {"low_res_masks": masks.numpy(), "iou_predictions": ious.numpy()}


class TorchPredictor:
    """Runs a model in float32 on the CPU, with the runtime's checks and packing of prompts.

    Args:
        model: the model, in evaluation mode.
    """

    def __init__(self, model: SamusHF) -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, weights: Path) -> "TorchPredictor":
        """From a weights file of ours.

        Raises:
            WeightsError: if the file is not one.
        """
        return cls(load_model(weights))

    @torch.no_grad()
    def encode(self, image: npt.NDArray[np.uint8]) -> TorchEmbedding:
        """Encode one grey image, (H, W), uint8."""
        frames = torch.from_numpy(np.ascontiguousarray(image))[None]
        return TorchEmbedding(self.model.encode_frames(frames), (image.shape[0], image.shape[1]))

    def predict(
        self,
        embedding: TorchEmbedding,
        *,
        boxes: npt.ArrayLike | None = None,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        multimask_output: bool = False,
    ) -> Prediction:
        """Predict masks; arguments and errors as `samus_edge.runtime.Segmenter.predict`."""
        hw = embedding.original_hw
        prompts = check_prompts(
            hw, boxes=boxes, point_coords=point_coords, point_labels=point_labels
        )
        decode = partial(self._decode, embedding)
        return _prediction(*predict_masks(decode, prompts, MASK_THRESHOLD, multimask_output), hw)

    def decode(
        self,
        embedding: TorchEmbedding,
        *,
        boxes: npt.ArrayLike | None = None,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        multimask_output: bool = False,
    ) -> Prediction:
        """What the mask decoder alone gives, as `samus_edge.runtime.Segmenter.decode`."""
        hw = embedding.original_hw
        prompts = check_prompts(
            hw, boxes=boxes, point_coords=point_coords, point_labels=point_labels
        )
        kept = MULTIMASK if multimask_output else SINGLE_MASK
        return _prediction(*self._decode(embedding, prompts, kept), hw)

    @torch.no_grad()
    def _decode(
        self, embedding: TorchEmbedding, prompts: Prompts, kept: slice
    ) -> tuple[Logits, Logits]:
        side = 4 * self.model.prompt_encoder.embedding_size
        size = self.model.prompt_encoder.image_size
        decoder = _TorchDecoder(self.model)
        return decode_prompts(decoder, embedding.tensor, prompts, size, (side, side), kept)


def _prediction(logits: Logits, ious: Logits, original_hw: tuple[int, int]) -> Prediction:
    return Prediction(
        masks=masks_from_logits(logits, original_hw, MASK_THRESHOLD),
        low_res_logits=logits,
        iou_predictions=ious,
        original_hw=original_hw,
    )
