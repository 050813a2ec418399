"""Variants that share images are merged."""

import numpy as np
import pytest

from samus_edge.data.prompt_protocol import CENTRE_POINT, JITTERED_BOX, BoxProtocol
from samus_edge.evaluation.image_perturbation import Gain
from samus_edge.evaluation.summary import (
    Variant,
    equivalent_diameter_px,
    lesion_size,
    merge_variants,
)


def test_each_image_and_each_protocol_on_it_comes_once() -> None:
    exact = BoxProtocol(0.0)
    merged = merge_variants(
        [
            Variant((JITTERED_BOX,)),
            Variant((JITTERED_BOX,), Gain(2.0)),
            Variant((exact, JITTERED_BOX)),
            Variant((CENTRE_POINT,), Gain(2.0)),
        ]
    )
    assert merged == [
        Variant((JITTERED_BOX, exact)),
        Variant((JITTERED_BOX, CENTRE_POINT), Gain(2.0)),
    ]
    assert [variant.image for variant in merged] == ["as_is", "gain_x2"]


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
