"""What one run of the mask decoder graph is fed."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.backend import Tensor
from samus_edge.runtime.prompts import DecoderPrompts

__all__ = ["mask_decoder_feeds"]

Embeddings = TypeVar("Embeddings")  # an array of the host, or of the device that decodes


def mask_decoder_feeds(
    image_embeddings: Embeddings,
    group: DecoderPrompts,
    mask_input: npt.NDArray[np.float32] | None,
    mask_input_hw: tuple[int, int],
) -> dict[str, Tensor | Embeddings]:
    """Put together an image, a group of its prompts and their earlier logits.

    Args:
        image_embeddings: (1, C, h, w), float32, of the host or of the device that decodes.
        group: n of the N prompts.
        mask_input: (N, 1, 4h, 4w), float32, logits of an earlier prediction; None without.
        mask_input_hw: (4h, 4w) that the graph takes.

    Returns:
        One array for each input of the graph, by name. Without mask_input it is zeros, and
        has_mask_input is 0, at which the graph puts its learned "no mask" embedding.
    """
    count = len(group.rows)
    if mask_input is None:
        masks = np.zeros((count, 1, *mask_input_hw), np.float32)
    else:
        masks = mask_input[group.rows]  # (n, 1, 4h, 4w)
    return {
        "image_embeddings": image_embeddings,
        "point_coords": group.point_coords,
        "point_labels": group.point_labels,
        "mask_input": masks,
        "has_mask_input": np.full((count, 1), mask_input is not None, np.float32),
    }
