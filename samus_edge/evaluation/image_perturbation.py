"""Changes of an image that scanners, exports and screens make, the same in every run.

They are what a model is tested with, and are defined apart from the augmentation that a model is
trained with. Every grey level v is 0..255; results are rounded and clipped to that range.

| name | new grey level | strength |
| --- | --- | --- |
| ``gain_x2`` | g v | g: 1 is as it was; what exceeds 255 saturates |
| ``gamma_0.5`` | 255 (v / 255)^gamma | below 1 brighter, above 1 darker; black and white stay |
| ``speckle_0.2`` | v (1 + sigma n) | sigma; n is one standard normal number per speckle grain |
| ``noise_10`` | v + sigma n | sigma, grey levels; n is one standard normal number per pixel |
| ``stored_at_0.5`` | shrunk to that share of width and height, enlarged again | the share |
| ``frame_640x480`` | resized to that width and height; the aspect is not kept | the size |
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError

__all__ = [
    "FrameSize",
    "Gain",
    "Gamma",
    "GaussianNoise",
    "Image",
    "ImagePerturbation",
    "Speckle",
    "StoredSmaller",
    "resize_image",
]

Image = npt.NDArray[np.uint8]

SPECKLE_GRAINS: Final = 256
"""Speckle grains along the longer side of the image, so that it looks the same at all sizes."""


class ImagePerturbation(ABC):
    """A change of an image; a different size is allowed. Its fields are finite numbers above 0."""

    NAME: ClassVar[str]
    """The name in reports, with a place for each field."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, value in vars(self).items():
            if not (value > 0 and np.isfinite(value)):
                raise BadArgumentError(f"{name} must be a finite number above 0, got {value}.")

    @property
    def name(self) -> str:
        """Name in reports; perturbations with the same name are the same."""
        return self.NAME.format(*vars(self).values())

    @abstractmethod
    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """Change a copy of the (H, W) image.

        Args:
            image: (H, W) grey, uint8.
            rng: the image's own source of randomness.

        Returns:
            (H', W') grey, uint8.
        """


@dataclass(frozen=True)
class Gain(ImagePerturbation):
    """Every grey level multiplied; black stays black."""

    NAME: ClassVar[str] = "gain_x{:g}"
    factor: float
    """Above 0."""

    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """Draws nothing."""
        return _to_grey(image * np.float64(self.factor))


@dataclass(frozen=True)
class Gamma(ImagePerturbation):
    """Another grey map: a power of the grey level."""

    NAME: ClassVar[str] = "gamma_{:g}"
    exponent: float
    """Above 0."""

    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """Draws nothing."""
        return _to_grey(255.0 * (image / 255.0) ** self.exponent)


@dataclass(frozen=True)
class Speckle(ImagePerturbation):
    """Multiplicative noise with grains of 1/256 of the longer side of the image.

    The grains are drawn on a grid, resized bilinearly to the image, and scaled to unit variance.
    """

    NAME: ClassVar[str] = "speckle_{:g}"
    sigma: float
    """Standard deviation as a fraction of the grey level; above 0."""

    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """Draws one number per grain."""
        height, width = image.shape
        per_px = SPECKLE_GRAINS / max(height, width)
        grains = rng.standard_normal(
            (max(1, round(height * per_px)), max(1, round(width * per_px)))
        )
        resized = cv2.resize(grains, (width, height), interpolation=cv2.INTER_LINEAR)
        field = np.asarray(resized, dtype=np.float64)
        return _to_grey(image * (1.0 + self.sigma * field / max(float(field.std()), 1e-6)))


@dataclass(frozen=True)
class GaussianNoise(ImagePerturbation):
    """Additive noise, independent in every pixel."""

    NAME: ClassVar[str] = "noise_{:g}"
    sigma: float
    """Standard deviation, grey levels; above 0."""

    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """Draws one number per pixel."""
        return _to_grey(image + self.sigma * rng.standard_normal(image.shape))


@dataclass(frozen=True)
class StoredSmaller(ImagePerturbation):
    """An image that was stored smaller and is shown at its old size again: detail is lost.

    Shrunk by area averaging, enlarged bilinearly.
    """

    NAME: ClassVar[str] = "stored_at_{:g}"
    scale: float
    """Stored width and height as a fraction of the original; above 0, below 1."""

    def __post_init__(self) -> None:
        """Check the scale."""
        if not 0.0 < self.scale < 1.0:
            raise BadArgumentError(f"scale must be above 0 and below 1, got {self.scale}.")

    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """Draws nothing."""
        height, width = image.shape
        stored_wh = (max(1, round(width * self.scale)), max(1, round(height * self.scale)))
        stored = cv2.resize(image, stored_wh, interpolation=cv2.INTER_AREA)
        shown = cv2.resize(stored, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(shown, dtype=np.uint8)


@dataclass(frozen=True)
class FrameSize(ImagePerturbation):
    """The image as another scanner's frame of a given size, whatever its aspect was."""

    NAME: ClassVar[str] = "frame_{}x{}"
    width: int
    """Pixels; at least 1."""
    height: int
    """Pixels; at least 1."""

    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """Draws nothing."""
        return resize_image(image, (self.height, self.width)).astype(np.uint8)


def resize_image(image: npt.NDArray[Any], output_hw: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize (H, W): by area averaging if both sides shrink, else bilinearly."""
    height, width = output_hw
    shrinks = width <= image.shape[1] and height <= image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))


def _to_grey(values: npt.NDArray[np.float64]) -> Image:
    return np.rint(values).clip(0, 255).astype(np.uint8)
