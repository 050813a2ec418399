"""A torch model behind the interface of the runtime's Segmenter."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime import Prediction
from samus_edge.runtime.prediction import masks_from_logits
from samus_edge.runtime.prompts import check_prompts, decoder_prompts
from samus_edge.weights.model_file import load_model

__all__ = ["TorchEmbedding", "TorchPredictor"]

MASK_THRESHOLD = 0.0


@dataclass(frozen=True, eq=False)
class TorchEmbedding:
    """An encoded image.

    Attributes:
        image_embeddings: (1, C, h, w), float32.
        original_hw: (H, W) of the image, pixels.
    """

    image_embeddings: torch.Tensor
    original_hw: tuple[int, int]


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

    @torch.no_grad()
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
        prompts = check_prompts(
            embedding.original_hw, boxes=boxes, point_coords=point_coords, point_labels=point_labels
        )
        kept = slice(1, None) if multimask_output else slice(0, 1)
        side = 4 * self.model.prompt_encoder.embedding_size
        logits: dict[int, npt.NDArray[np.float32]] = {}
        ious: dict[int, npt.NDArray[np.float32]] = {}
        for group in decoder_prompts(prompts, self.model.prompt_encoder.image_size):
            count = len(group.rows)
            masks, iou = self.model.decode(
                embedding.image_embeddings,
                torch.from_numpy(group.point_coords),
                torch.from_numpy(group.point_labels),
                torch.zeros(count, 1, side, side),
                torch.zeros(count, 1),
            )
            logits |= dict(zip(group.rows.tolist(), masks[:, kept].numpy(), strict=True))
            ious |= dict(zip(group.rows.tolist(), iou[:, kept].numpy(), strict=True))
        low_res_logits = np.stack([logits[row] for row in range(len(prompts))])
        return Prediction(
            masks=masks_from_logits(low_res_logits, embedding.original_hw, MASK_THRESHOLD),
            low_res_logits=low_res_logits,
            iou_predictions=np.stack([ious[row] for row in range(len(prompts))]),
            original_hw=embedding.original_hw,
        )
