"""How far two answers to the same prompts are apart: the figures of every comparison."""

import math

import numpy as np
import numpy.typing as npt


def largest_difference(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Largest absolute difference of two arrays of one shape; infinite where one is not a number.

    Taken in float64, in which finite float32 numbers cannot overflow.
    """
    largest = float(np.abs(first.astype(np.float64) - second).max())
    return math.inf if math.isnan(largest) else largest


def mask_iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one size, 0..1; 1 where both are empty."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 1.0


def cosine_similarity(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Cosine similarity of two flattened arrays; 1 where both are zero, 0 where one is."""
    a, b = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if 0.0 in norms:
        return float(norms == (0.0, 0.0))
    return float(a @ b) / (norms[0] * norms[1])
