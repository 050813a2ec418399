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

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError

Image = npt.NDArray[np.uint8]

SPECKLE_GRAINS: Final = 256
"""Speckle grains along the longer side of the image, so that it looks the same at all sizes."""


@dataclass(frozen=True)
class ImagePerturbation:
    """A change of an image, made by one of the functions below; a different size is allowed.

    Attributes:
        name: name in reports; perturbations with the same name are the same.
        apply: changes a copy of a (H, W) grey image, uint8, and gives another such image; what it
            draws comes from the generator, the image's own source of randomness.
    """

    name: str
    apply: Callable[[Image, np.random.Generator], Image] = field(compare=False)


def gain(factor: float) -> ImagePerturbation:
    """Every grey level multiplied; black stays black."""
    name = _name("gain_x{:g}", factor=factor)
    return ImagePerturbation(name, lambda image, _: _to_grey(image * np.float64(factor)))


def gamma(exponent: float) -> ImagePerturbation:
    """Another grey map: a power of the grey level."""
    name = _name("gamma_{:g}", exponent=exponent)
    return ImagePerturbation(name, lambda image, _: _to_grey(255.0 * (image / 255.0) ** exponent))


def speckle(sigma: float) -> ImagePerturbation:
    """Multiplicative noise with grains of 1/256 of the longer side of the image.

    The grains, one number each, are drawn on a grid, resized bilinearly to the image, and scaled to
    unit variance.

    Args:
        sigma: standard deviation as a fraction of the grey level; above 0.
    """

    def apply(image: Image, rng: np.random.Generator) -> Image:
        height, width = image.shape
        per_px = SPECKLE_GRAINS / max(height, width)
        grid_hw = (max(1, round(height * per_px)), max(1, round(width * per_px)))
        resized = cv2.resize(rng.standard_normal(grid_hw), (width, height))
        grains = np.asarray(resized, dtype=np.float64)
        return _to_grey(image * (1.0 + sigma * grains / max(float(grains.std()), 1e-6)))

    return ImagePerturbation(_name("speckle_{:g}", sigma=sigma), apply)


def gaussian_noise(sigma: float) -> ImagePerturbation:
    """Additive noise, one number per pixel, with a standard deviation in grey levels."""
    return ImagePerturbation(
        _name("noise_{:g}", sigma=sigma),
        lambda image, rng: _to_grey(image + sigma * rng.standard_normal(image.shape)),
    )


def stored_smaller(scale: float) -> ImagePerturbation:
    """An image that was stored smaller and is shown at its old size again: detail is lost.

    Shrunk by area averaging, enlarged bilinearly.

    Args:
        scale: stored width and height as a fraction of the original; above 0, below 1.
    """
    if not 0.0 < scale < 1.0:
        raise BadArgumentError(f"scale must be above 0 and below 1, got {scale}.")

    def apply(image: Image, rng: np.random.Generator) -> Image:
        height, width = image.shape
        stored_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        stored = cv2.resize(image, stored_wh, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(stored, (width, height)), dtype=np.uint8)

    return ImagePerturbation(f"stored_at_{scale:g}", apply)


def frame_size(width: int, height: int) -> ImagePerturbation:
    """The image as another scanner's frame of a given size, whatever its aspect was."""
    return ImagePerturbation(
        _name("frame_{}x{}", width=width, height=height),
        lambda image, _: resize_image(image, (height, width)).astype(np.uint8),
    )


def _name(form: str, **strengths: float) -> str:
    """The name in reports.

    Raises:
        BadArgumentError: if a strength is not a finite number above 0.
    """
    for name, value in strengths.items():
        if not (value > 0 and math.isfinite(value)):
            raise BadArgumentError(f"{name} must be a finite number above 0, got {value}.")
    return form.format(*strengths.values())


def resize_image(image: npt.NDArray[Any], output_hw: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize (H, W): by area averaging if both sides shrink, else bilinearly."""
    height, width = output_hw
    shrinks = width <= image.shape[1] and height <= image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))


def _to_grey(values: npt.NDArray[np.float64]) -> Image:
    return np.rint(values).clip(0, 255).astype(np.uint8)
