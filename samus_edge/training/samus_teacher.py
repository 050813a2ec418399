"""A trained SAMUS-HF as a teacher."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.runtime.mask_upsampling import masks_from_logits
from samus_edge.runtime.prompts import BOX_CORNER_LABELS, to_model_frame
from samus_edge.training.teacher import UInt8Image
from samus_edge.weights.model_file import load_model

EMBEDDING_SIZE = 32
"""Side of the embeddings that a student learns."""

MASK_THRESHOLD = 0.0


class SamusTeacher:
    """Embeddings and masks of a model of ours.

    Args:
        model: the model.
        weights_sha256: SHA-256 of its weights file.
        precision: "fp32", or "bf16" for automatic mixed precision in the image encoder.
        device: where it computes.
    """

    def __init__(
        self, model: SamusHF, weights_sha256: str, *, precision: str, device: torch.device
    ) -> None:
        # torch's annotations of Module.to leave memory_format out
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.eval().requires_grad_(False)
        self.weights_sha256 = weights_sha256
        self.precision = precision
        self.device = device

    @classmethod
    def load(cls, weights: Path, *, precision: str, device: torch.device) -> "SamusTeacher":
        """From a weights file of ours.

        Raises:
            WeightsError: if the file is missing, damaged or of another kind.
        """
        model = load_model(weights)
        return cls(model, sha256_of_file(weights), precision=precision, device=device)

    def embeddings(self, frames: Sequence[UInt8Image]) -> Tensor:
        """Embed frames; see :meth:`samus_edge.training.teacher.Teacher.embeddings`."""
        images, high_frequencies = [], []
        for frame in frames:
            image, high_frequency = self.inputs(frame)
            images.append(image)
            high_frequencies.append(high_frequency)
        embeddings = self.encode(torch.cat(images), torch.cat(high_frequencies))
        return F.adaptive_avg_pool2d(embeddings, EMBEDDING_SIZE).cpu()

    def masks(self, image: UInt8Image, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Segment; see :meth:`samus_edge.training.teacher.Teacher.masks`."""
        hw = (image.shape[0], image.shape[1])
        corners = to_model_frame(boxes.reshape(-1, 2, 2), hw, self.model.prompt_encoder.image_size)
        logits = self.decode(self.encode(*self.inputs(image)), corners)  # (N, h, w)
        masks: npt.NDArray[np.bool_] = masks_from_logits(logits[:, None], hw, MASK_THRESHOLD)
        return masks[:, 0]

    def inputs(self, frame: UInt8Image) -> tuple[Tensor, Tensor]:
        """Image and high-frequency image, both (1, 1, S, S), of a frame (H, W)."""
        frames = torch.from_numpy(np.ascontiguousarray(frame))[None].to(self.device)
        return self.model.input_scaling(frames), self.model.high_frequency(frames) / 255.0

    @torch.no_grad()
    def encode(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Embeddings, float32, of inputs (B, 1, S, S)."""
        enabled = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            embeddings: Tensor = self.model.image_encoder(
                image.contiguous(memory_format=torch.channels_last),
                high_frequency.contiguous(memory_format=torch.channels_last),
            )
        return embeddings.float()

    @torch.no_grad()
    def decode(
        self, embeddings: Tensor, corners: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Logits of boxes in one image.

        Args:
            embeddings: (1, C, h, w), float32.
            corners: (N, 2, 2), float32, top left and bottom right (x, y), model frame.

        Returns:
            (N, 4h, 4w), float32.
        """
        count = len(corners)
        height, width = (4 * side for side in embeddings.shape[-2:])
        low_res_masks, _ = self.model.decode(
            embeddings,
            torch.from_numpy(corners).to(self.device),
            torch.tensor([BOX_CORNER_LABELS] * count, dtype=torch.float32, device=self.device),
            torch.zeros(count, 1, height, width, device=self.device),
            torch.zeros(count, 1, device=self.device),
        )
        logits: npt.NDArray[np.float32] = low_res_masks[:, 0].cpu().numpy()
        return logits
