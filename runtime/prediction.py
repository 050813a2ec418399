"""What the runtime gives back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from samus_edge.runtime.gpu.device_tensor import DeviceTensor

__all__ = ["Embedding", "Prediction"]


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image, to be prompted any number of times.

    Attributes:
        tensor: (1, C, h, w), float32: the image encoder's output, where it was computed: in memory
            of the host, or of the GPU, which is given back with the embedding.
        original_hw: (H, W) of the image, pixels.
        encoder_sha256: of the image encoder graph that made it; another bundle's decoder refuses it.
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
