"""Perturbations against their formulas."""

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.evaluation.image_perturbation import (
    ImagePerturbation,
    frame_size,
    gain,
    gamma,
    gaussian_noise,
    speckle,
    stored_smaller,
)

EVERY: list[ImagePerturbation] = [
    gain(2.0),
    gamma(0.5),
    speckle(0.2),
    gaussian_noise(10.0),
    stored_smaller(0.5),
    frame_size(64, 48),
]


@pytest.fixture
def image() -> npt.NDArray[np.uint8]:
    """90 x 120 grey levels."""
    return np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)


@pytest.mark.parametrize("perturbation", EVERY, ids=lambda perturbation: perturbation.name)
def test_the_same_generator_gives_the_same_image_and_leaves_the_original(
    perturbation: ImagePerturbation, image: npt.NDArray[np.uint8]
) -> None:
    before = image.copy()
    first, second = (perturbation.apply(image, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)
    assert first.dtype == np.uint8
    assert first.shape != image.shape or (first != image).any()


def test_gain_multiplies_and_saturates() -> None:
    levels = np.array([[0, 1, 100, 127, 128, 255]], np.uint8)
    np.testing.assert_array_equal(
        gain(2.0).apply(levels, np.random.default_rng(0)), [[0, 2, 200, 254, 255, 255]]
    )


def test_gamma_keeps_black_and_white() -> None:
    levels = np.array([[0, 64, 255]], np.uint8)
    bright, dark = (gamma(g).apply(levels, np.random.default_rng(0)) for g in (0.5, 2.0))
    np.testing.assert_array_equal(bright, [[0, round(255 * (64 / 255) ** 0.5), 255]])
    np.testing.assert_array_equal(dark, [[0, round(255 * (64 / 255) ** 2), 255]])


def test_speckle_is_proportional_to_the_grey_level_and_coarse_on_large_images() -> None:
    flat = np.zeros((512, 1024), np.uint8)
    flat[:, :512], flat[256:] = 100, 0
    noisy = speckle(0.2).apply(flat, np.random.default_rng(0)).astype(float)
    assert (noisy[256:] == 0).all()  # black stays black
    bright = noisy[:256, :512]
    assert bright.mean() == pytest.approx(100, abs=2)
    assert bright.std() == pytest.approx(20, rel=0.1)
    # Grains are 4 pixels wide here, so neighbours are alike; in white noise they are not.
    assert np.corrcoef(bright[:, :-1].ravel(), bright[:, 1:].ravel())[0, 1] > 0.8


def test_noise_has_the_standard_deviation_asked_for() -> None:
    noisy = gaussian_noise(10.0).apply(np.full((200, 200), 128, np.uint8), np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(128, abs=0.3)
    # rounding adds 1/12 to the variance
    assert noisy.std() == pytest.approx((100 + 1 / 12) ** 0.5, rel=0.02)


def test_an_image_stored_smaller_loses_detail_and_keeps_its_size() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (40, 40))  # every pixel another
    shown = stored_smaller(0.5).apply(stripes, np.random.default_rng(0))
    np.testing.assert_array_equal(shown, np.full((40, 80), 100))  # the mean of both


def test_a_frame_has_the_size_asked_for(image: npt.NDArray[np.uint8]) -> None:
    for width, height in ((30, 20), (1024, 768), (60, 300)):
        frame = frame_size(width, height).apply(image, np.random.default_rng(0))
        assert frame.shape == (height, width)
    halved = frame_size(60, 45).apply(image, np.random.default_rng(0)).astype(float)
    blocks = image.reshape(45, 2, 60, 2).mean(axis=(1, 3))
    assert np.abs(halved - blocks).max() <= 0.5  # area averaging, rounded


def test_perturbations_are_named_by_their_strength() -> None:
    assert [perturbation.name for perturbation in EVERY] == [
        "gain_x2",
        "gamma_0.5",
        "speckle_0.2",
        "noise_10",
        "stored_at_0.5",
        "frame_64x48",
    ]


def test_bad_strengths_raise_with_their_value() -> None:
    with pytest.raises(ValueError, match=r"factor must be a finite number above 0, got 0"):
        gain(0.0)
    with pytest.raises(ValueError, match=r"sigma must be a finite number above 0, got nan"):
        gaussian_noise(float("nan"))
    with pytest.raises(ValueError, match=r"scale must be above 0 and below 1, got 1"):
        stored_smaller(1.0)
    with pytest.raises(ValueError, match=r"height must be a finite number above 0, got 0"):
        frame_size(10, 0)
