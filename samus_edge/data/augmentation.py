"""Augmentation of ultrasound frames: geometry, elasticity, gain, depth, speckle, blur,
resolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.runtime.bundle.records import Bound, Fraction, NotNegative, check_record

UInt8Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

ELASTIC_GRID = 5  # control points per side: deformations no finer than a fifth of the frame


@dataclass(frozen=True)
class AugmentationConfig:
    """Strength of every augmentation; zero probabilities and ranges leave frames as they are.

    Attributes:
        rotation_deg: rotation is uniform in plus or minus this.
        log_scale: natural logarithm of the zoom is uniform in plus or minus this.
        log_aspect: natural logarithm of the stretch of x over y is uniform in plus or minus this.
        translation: shift in plus or minus this, fraction of the side.
        flip_probability: horizontal mirror.
        elastic_probability: chance of a smooth deformation, as tissue under the probe.
        elastic_displacement: its largest displacement of a control point, fraction of the side.
        log_gamma: natural logarithm of the gamma exponent is uniform in plus or minus this.
        log_gain: natural logarithm of the gain is uniform in plus or minus this.
        offset: added grey, plus or minus, fraction of full scale.
        attenuation_probability: chance of a gain that changes linearly with depth.
        shadow_probability: chance of a soft acoustic shadow below a random depth.
        speckle_probability: chance of multiplicative speckle.
        speckle_sigma: its largest standard deviation, fraction of the signal.
        blur_probability: chance of a Gaussian blur.
        blur_sigma_px: its largest sigma, pixels.
        resolution_probability: chance that the frame is stored smaller than it is.
        min_resolution: smallest such factor.
    """

    rotation_deg: NotNegative = 20.0
    log_scale: NotNegative = 0.3
    log_aspect: NotNegative = 0.15
    translation: NotNegative = 0.12
    flip_probability: Fraction = 0.5
    elastic_probability: Fraction = 0.4
    elastic_displacement: NotNegative = 0.04
    log_gamma: NotNegative = 0.45
    log_gain: NotNegative = 0.3
    offset: NotNegative = 0.08
    attenuation_probability: Fraction = 0.4
    shadow_probability: Fraction = 0.2
    speckle_probability: Fraction = 0.4
    speckle_sigma: NotNegative = 0.3
    blur_probability: Fraction = 0.2
    blur_sigma_px: NotNegative = 1.5
    resolution_probability: Fraction = 0.5
    min_resolution: Annotated[float, Bound("in (0, 1]", lambda value: 0 < value <= 1)] = 0.35

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        check_record(self)


def augment_geometry(
    image: UInt8Image,
    masks: Sequence[Mask],
    config: AugmentationConfig,
    rng: np.random.Generator,
    mask_size: int,
) -> tuple[UInt8Image, list[Mask]]:
    """Rotate, zoom, stretch, shift, mirror, deform a frame with its masks, change its resolution.

    Args:
        image: (H, W), uint8, grey frame.
        masks: (H, W), bool, any number of them.
        config: strengths.
        rng: source of randomness.
        mask_size: side of the square masks that come out.

    Returns:
        Frame (h, w), uint8, of a size of its own, and masks (mask_size, mask_size), bool, which
        cover the same field of view. What lies outside the original frame is black.
    """
    height, width = image.shape
    resolution = 1.0
    if rng.random() < config.resolution_probability:
        resolution = rng.uniform(config.min_resolution, 1.0)
    out_h, out_w = (max(32, round(side * resolution)) for side in (height, width))
    matrix = _random_affine(height, width, config, rng)
    displacement = None
    if rng.random() < config.elastic_probability:
        displacement = _random_displacement(config.elastic_displacement, rng)
    frame = _warp(image, matrix, displacement, (out_h, out_w))
    mask_hw = (mask_size, mask_size)
    warped = [_warp(mask.astype(np.uint8) * 255, matrix, displacement, mask_hw) for mask in masks]
    return frame, [mask > 127 for mask in warped]


def _random_affine(
    height: int, width: int, config: AugmentationConfig, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(3, 3) map from the original's to the output's field of view, both [-1, 1] in x and in y."""
    angle = np.deg2rad(rng.uniform(-config.rotation_deg, config.rotation_deg))
    zoom = np.exp(rng.uniform(-config.log_scale, config.log_scale))
    stretch = np.exp(rng.uniform(-config.log_aspect, config.log_aspect) / 2)
    mirror = -1.0 if rng.random() < config.flip_probability else 1.0
    shift = rng.uniform(-config.translation, config.translation, size=2) * 2
    to_square = np.diag([width / height, 1.0, 1.0])  # so that the rotation does not shear
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    scaling = np.diag([mirror * zoom * stretch, zoom / stretch, 1.0])
    moved = np.linalg.inv(to_square) @ rotation @ to_square @ scaling
    moved[:2, 2] = shift
    return np.asarray(moved, dtype=np.float64)


def _random_displacement(largest: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(G, G, 2) displacements (x, y) of a coarse grid of control points, fraction of the side."""
    shape = (ELASTIC_GRID, ELASTIC_GRID, 2)
    return rng.uniform(-largest, largest, size=shape).astype(np.float32)


def _warp(
    image: npt.NDArray[np.uint8],
    matrix: npt.NDArray[np.float64],
    displacement: npt.NDArray[np.float32] | None,
    out_hw: tuple[int, int],
) -> npt.NDArray[np.uint8]:
    """Apply a map between [-1, 1] fields of view to pixels, bilinearly, with half-pixel centres.

    The displacement, if any, moves the point of the original that an output pixel shows.
    """

    def to_view(hw: tuple[int, int]) -> npt.NDArray[np.float64]:
        h, w = hw
        return np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1.0]])

    height, width = image.shape
    pixels = np.linalg.inv(to_view(out_hw)) @ matrix @ to_view((height, width))
    out_h, out_w = out_hw
    if displacement is None:
        warped = cv2.warpAffine(image, pixels[:2], (out_w, out_h), flags=cv2.INTER_LINEAR)
        return np.asarray(warped, dtype=np.uint8)
    to_original = np.linalg.inv(pixels).astype(np.float32)
    columns = np.arange(out_w, dtype=np.float32)[None, :]
    rows = np.arange(out_h, dtype=np.float32)[:, None]
    shift = cv2.resize(displacement, (out_w, out_h), interpolation=cv2.INTER_CUBIC)
    x = to_original[0, 0] * columns + to_original[0, 1] * rows + to_original[0, 2]
    y = to_original[1, 0] * columns + to_original[1, 1] * rows + to_original[1, 2]
    x, y = x + shift[..., 0] * width, y + shift[..., 1] * height
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR), dtype=np.uint8)


def augment_appearance(
    image: UInt8Image, config: AugmentationConfig, rng: np.random.Generator
) -> UInt8Image:
    """Change what another scanner or operator would: gain, gamma, shadow, speckle, blur.

    Args:
        image: (H, W), uint8, grey frame.
        config: strengths.
        rng: source of randomness.

    Returns:
        (H, W), uint8.
    """
    height, width = image.shape
    signal = image.astype(np.float32) / 255.0
    signal = signal ** np.float32(np.exp(rng.uniform(-config.log_gamma, config.log_gamma)))
    signal *= np.float32(np.exp(rng.uniform(-config.log_gain, config.log_gain)))
    depth = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    if rng.random() < config.attenuation_probability:
        slope = np.float32(rng.uniform(-0.7, 0.7))
        signal *= np.exp(slope * (depth - 0.5))
    if rng.random() < config.shadow_probability:
        signal *= _shadow(height, width, depth, rng)
    if rng.random() < config.speckle_probability:
        signal *= _speckle(height, width, config.speckle_sigma, rng)
    signal += np.float32(rng.uniform(-config.offset, config.offset))
    if rng.random() < config.blur_probability:
        sigma = rng.uniform(0.3, config.blur_sigma_px)
        signal = np.asarray(cv2.GaussianBlur(signal, (0, 0), sigma), dtype=np.float32)
    return np.asarray(np.clip(signal, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _shadow(
    height: int, width: int, depth: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """(H, W) factor: a soft-edged vertical band that darkens everything below a random depth."""
    centre, half_width = rng.uniform(0.0, width), width * rng.uniform(0.03, 0.12)
    columns = np.arange(width, dtype=np.float32)[None, :]
    band = np.exp(-(((columns - centre) / half_width) ** 2))
    below = 1.0 / (1.0 + np.exp(-(depth - rng.uniform(0.1, 0.7)) * 20.0))
    strength = rng.uniform(0.3, 0.8)
    return np.asarray(1.0 - strength * band * below, dtype=np.float32)


def _speckle(
    height: int, width: int, max_sigma: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """(H, W) factor around 1 with a random grain size, as speckle has a resolution cell."""
    grain = rng.uniform(1.0, 3.0)
    small = (max(1, round(height / grain)), max(1, round(width / (grain * rng.uniform(1.0, 1.5)))))
    noise = rng.standard_normal(small, dtype=np.float32)
    resized = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    sigma = np.float32(rng.uniform(0.05, max_sigma))
    return np.asarray(np.clip(1.0 + sigma * resized, 0.0, None), dtype=np.float32)
