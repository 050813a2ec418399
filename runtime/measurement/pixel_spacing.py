"""How large a pixel is."""

import math
from dataclasses import dataclass

__all__ = ["PixelSpacing"]


@dataclass(frozen=True)
class PixelSpacing:
    """Distance between the centres of neighbouring pixels.

    Attributes:
        row_mm: from a row to the next, down the image, mm.
        column_mm: from a column to the next, across the image, mm.

    Raises:
        ValueError: if one is not a positive number.
    """

    row_mm: float
    column_mm: float

    def __post_init__(self) -> None:
        for value in (self.row_mm, self.column_mm):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"the spacing of pixels must be two positive numbers in mm, got {self.row_mm:g} and "
                    f"{self.column_mm:g}."
                )

    @staticmethod
    def square(mm: float) -> "PixelSpacing":
        """The same in both directions."""
        return PixelSpacing(mm, mm)
