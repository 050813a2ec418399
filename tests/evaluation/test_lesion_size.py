"""Lesion sizes against circles of known diameter."""

import numpy as np
import pytest

from samus_edge.evaluation.lesion_size import equivalent_diameter_px, lesion_size


@pytest.mark.parametrize("diameter", [30, 100])
def test_a_circle_has_its_own_diameter(diameter: int) -> None:
    y, x = np.mgrid[:256, :256]
    circle = np.hypot(y - 127.5, x - 127.5) <= diameter / 2
    assert equivalent_diameter_px(circle) == pytest.approx(diameter, rel=0.01)


def test_the_size_of_the_image_does_not_matter() -> None:
    small, large = np.zeros((64, 64), np.bool_), np.zeros((640, 320), np.bool_)
    small[:16], large[:160] = True, True  # a quarter of either
    expected = (4 * 256 * 64 / np.pi) ** 0.5
    assert equivalent_diameter_px(small) == equivalent_diameter_px(large)
    assert equivalent_diameter_px(small) == pytest.approx(expected)


def test_the_limits_belong_to_the_larger_size() -> None:
    sizes = [lesion_size(diameter) for diameter in (0.0, 49.9, 50.0, 84.9, 85.0, 256.0)]
    assert sizes == ["small", "small", "medium", "medium", "large", "large"]
