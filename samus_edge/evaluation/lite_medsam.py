"""LiteMedSAM itself, with its own preprocessing, to compare with."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from samus_edge.modeling.model_parts import EMBED_DIM, with_sams_decoder
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.tiny_image_encoder import MIN_RANGE, LiteMedSamImageEncoder
from samus_edge.runtime import Prediction
from samus_edge.runtime.prediction import masks_from_logits
from samus_edge.runtime.prompts import BOX_CORNER_LABELS
from samus_edge.weights.checkpoint_file import CheckpointFile, read_checkpoint
from samus_edge.weights.foreign_checkpoints import LITE_MEDSAM_KIND, lite_medsam_name
from samus_edge.weights.transfer import ConvertedTensors, transfer

INPUT_SIZE = 256
EMBEDDING_SIZE = 64
MASK_THRESHOLD = 0.0


class LiteMedSam:
    """LiteMedSAM as it was trained: longest side to 256, padded, min-max normalised; boxes alone.

    Args:
        checkpoint: `lite_medsam.pth`.

    Raises:
        WeightsError: if the file is missing, damaged or another checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._model = load_lite_medsam_model(checkpoint)

    @torch.no_grad()
    def encode(self, image: npt.NDArray[np.uint8]) -> Any:
        """Embeddings, the frame's (H, W), and its (h, w) in the 256x256 input."""
        padded, inner_hw = padded_input(image)
        tensor = torch.from_numpy(padded)[None, None]
        return self._model.image_encoder(tensor, tensor), image.shape, inner_hw

    @torch.no_grad()
    def predict(
        self,
        embedding: Any,
        *,
        boxes: npt.NDArray[np.float32] | None = None,
        point_coords: npt.NDArray[np.float32] | None = None,
        point_labels: npt.NDArray[np.int32] | None = None,
    ) -> Prediction:
        """Segment from (N, 4) boxes in pixels of the image; there are no points.

        Boxes go to the model frame as LiteMedSAM's own inference scales them: by the frame's factor
        alone, without the half-pixel rule.
        """
        assert boxes is not None and point_coords is None
        embeddings, hw, (height, width) = embedding
        count = len(boxes)
        logits, ious = self._model.decode(
            embeddings,
            torch.from_numpy(boxes * np.float32(INPUT_SIZE / max(hw))).reshape(-1, 2, 2),
            torch.tensor([BOX_CORNER_LABELS], dtype=torch.float32).expand(count, -1),
            torch.zeros(count, 1, INPUT_SIZE, INPUT_SIZE),
            torch.zeros(count, 1),
        )
        visible = np.ascontiguousarray(logits[:, :1, :height, :width].numpy())
        return Prediction(
            masks=masks_from_logits(visible, hw, MASK_THRESHOLD),
            low_res_logits=visible,
            iou_predictions=ious[:, :1].numpy(),
            original_hw=hw,
        )


def padded_input(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """A frame as LiteMedSAM was trained with: longest side 256, scaled by its extremes, padded.

    Args:
        image: (H, W), uint8, grey.

    Returns:
        (256, 256), float32, in [0, 1], zero below and to the right of the frame; and the frame's
        (h, w) in it, pixels.
    """
    scale = INPUT_SIZE / max(image.shape)
    height, width = (max(1, round(side * scale)) for side in image.shape)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = resized.min()
    padded = np.zeros((INPUT_SIZE, INPUT_SIZE), np.float32)
    padded[:height, :width] = (resized - low) / max(float(resized.max() - low), MIN_RANGE)
    return padded, (height, width)


def load_lite_medsam_model(checkpoint: Path) -> SamusHF:
    """LiteMedSAM behind the interface of SAMUS-HF: its own encoder, SAM's decoder at 64x64.

    Args:
        checkpoint: `lite_medsam.pth`.

    Returns:
        The model in evaluation mode. The high-frequency image means nothing to it.

    Raises:
        WeightsError: if the file is missing, damaged or another checkpoint.
    """
    file = read_checkpoint(checkpoint)
    encoder = LiteMedSamImageEncoder(embed_dim=EMBED_DIM)
    model = with_sams_decoder(encoder, embedding_size=EMBEDDING_SIZE)
    transfer(model, _converted(file), path=checkpoint, kind=LITE_MEDSAM_KIND, takes_all=True)
    return model.eval().requires_grad_(False)


def _converted(checkpoint: CheckpointFile) -> ConvertedTensors:
    """The checkpoint under our names; position biases, (heads, w * w), become square tables."""
    converted = ConvertedTensors()
    for key, value in checkpoint.tensors.items():
        name = lite_medsam_name(key)
        side = math.isqrt(value.shape[-1]) if value.ndim else 0
        if name.endswith(".bias_table") and value.shape[1:] == (side * side,):
            value = value.view(-1, side, side)
        converted.tensors[name] = value
    return converted
