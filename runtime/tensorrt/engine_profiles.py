"""The sizes that an engine is built for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["EngineProfile", "ShapeRange", "image_encoder_profile", "mask_decoder_profile"]

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """The shapes that one input may have; TensorRT's optimisation profile of a tensor.

    Attributes:
        smallest: lower bound of every axis.
        typical: what the engine is made fast for, within the bounds.
        largest: upper bound of every axis; memory is reserved for it.

    Raises:
        ValueError: if the ranks differ, a size is not a positive integer, or an axis does not have
            smallest <= typical <= largest.
    """

    smallest: Shape
    typical: Shape
    largest: Shape

    def __post_init__(self) -> None:
        if not len(self.smallest) == len(self.typical) == len(self.largest):
            raise ValueError(
                f"the shapes of a range must have the same number of axes, got {self}."
            )
        sizes = (*self.smallest, *self.typical, *self.largest)
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"the sizes of a range must be positive integers, got {self}.")
        axes = zip(self.smallest, self.typical, self.largest, strict=True)
        if any(not low <= typical <= high for low, typical, high in axes):
            raise ValueError(
                f"every axis of a range must have smallest <= typical <= largest, got {self}."
            )

    @staticmethod
    def fixed(shape: Shape) -> "ShapeRange":
        """One shape alone."""
        return ShapeRange(shape, shape, shape)

    def fixed_size(self, axis: int) -> int | None:
        """The only size that an axis may have, or None where it may vary."""
        low, high = self.smallest[axis], self.largest[axis]
        return low if low == high else None

    def __str__(self) -> str:
        return f"{self.smallest} to {self.largest}, typically {self.typical}"


# The range of every input whose shape the graph leaves open, by name.
EngineProfile: TypeAlias = Mapping[str, ShapeRange]


def image_encoder_profile(
    smallest_hw: tuple[int, int],
    typical_hw: tuple[int, int] | None = None,
    largest_hw: tuple[int, int] | None = None,
    *,
    frames: int = 1,
) -> EngineProfile:
    """Frame sizes for the image encoder.

    Args:
        smallest_hw: (H, W) of the smallest frame, pixels; alone, the size of every frame.
        typical_hw: the size to be fast for; None for the largest.
        largest_hw: None for the larger of the others.
        frames: B, of one size, in every run; engines are built for one number.

    Raises:
        ValueError: if the sizes are not positive or not in order.
    """
    largest = largest_hw or typical_hw or smallest_hw
    typical = typical_hw or largest
    return {"image": ShapeRange((frames, *smallest_hw), (frames, *typical), (frames, *largest))}


def mask_decoder_profile(
    mask_input_hw: tuple[int, int],
    *,
    typical_prompts: int = 1,
    most_prompts: int = 16,
    typical_points: int = 2,
    most_points: int = 16,
) -> EngineProfile:
    """Numbers of prompts and points for the mask decoder, each from 1.

    Args:
        mask_input_hw: (h, w) of the mask input; see `graph_contract.mask_input_hw`.
        typical_prompts: N to be fast for.
        most_prompts: largest N; 1 fixes it.
        typical_points: P to be fast for; a box, or a point with its padding, has 2.
        most_points: largest P.

    Raises:
        ValueError: if a number is not positive, or a typical one above the largest.
    """

    def prompts_and_points(*rest: int) -> ShapeRange:
        return ShapeRange(
            (1, 1, *rest),
            (typical_prompts, typical_points, *rest),
            (most_prompts, most_points, *rest),
        )

    def prompts(*rest: int) -> ShapeRange:
        return ShapeRange((1, *rest), (typical_prompts, *rest), (most_prompts, *rest))

    return {
        "point_coords": prompts_and_points(2),
        "point_labels": prompts_and_points(),
        "mask_input": prompts(1, *mask_input_hw),
        "has_mask_input": prompts(1),
    }
