"""What a teacher gives, and the teachers that there are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
        device: where it computes; None for the CPU.

    Raises:
        MissingExtraError: if LiteMedSAM's checkpoint is not installed.
        WeightsError: if the file is missing, damaged or not what it should be.
    """
    from samus_edge.training.lite_medsam_teacher import LiteMedSamTeacher
    from samus_edge.training.samus_teacher import SamusTeacher

    device = device or torch.device("cpu")
    if name == "lite_medsam":
        return LiteMedSamTeacher.load(precision=precision, device=device)
    return SamusTeacher.load(Path(name), precision=precision, device=device)
