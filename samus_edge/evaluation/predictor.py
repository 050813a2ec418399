"""What can be evaluated: anything that encodes an image once and segments it from prompts."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from samus_edge.data.prompt_protocol import Prompt, prompt_arrays

Embedding = TypeVar("Embedding")


class PredictedMasks(Protocol):
    """What a predictor returns for N prompts."""

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """(N, 1, H, W) masks at the size of the image."""
        ...

    @property
    def iou_predictions(self) -> npt.NDArray[np.float32]:
        """(N, 1) the model's estimates of the masks' IoU."""
        ...


class Predictor(Protocol[Embedding]):
    """What is evaluated; `samus_edge.runtime.Segmenter` is one."""

    def encode(self, image: npt.NDArray[np.uint8], /) -> Embedding:
        """Encode a (H, W) grey image, 0..255, once for all its prompts."""
        ...

    def predict(
        self,
        embedding: Embedding,
        /,
        *,
        boxes: npt.NDArray[np.float32] | None = None,
        point_coords: npt.NDArray[np.float32] | None = None,
        point_labels: npt.NDArray[np.int32] | None = None,
    ) -> PredictedMasks:
        """Segment from (N, 4) boxes, from (N, P, 2) points with (N, P) labels, or from both.

        All are in pixels of the image; see `samus_edge.data.prompt_protocol`.
        """
        ...


def predict_prompts(
    predictor: Predictor[Embedding], embedding: Embedding, prompts: Sequence[Prompt]
) -> PredictedMasks:
    """Segment from at least one prompt, all of one kind, in one call."""
    arrays = prompt_arrays(prompts)
    return predictor.predict(
        embedding,
        boxes=arrays.boxes,
        point_coords=arrays.point_coords,
        point_labels=arrays.point_labels,
    )
