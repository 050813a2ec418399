"""Summaries against the same numbers computed by hand; variants that share images are merged."""

import numpy as np
import pytest

from samus_edge.data.prompt_protocol import CENTRE_POINT, JITTERED_BOX, BoxProtocol
from samus_edge.evaluation.image_perturbation import gain
from samus_edge.evaluation.summary import (
    AS_IS,
    InstanceScore,
    Variant,
    equivalent_diameter_px,
    lesion_size,
    merge_variants,
    summarise,
)


def score(
    dice: float,
    key: str = "benign/benign (1)",
    prompt: str = "box_5%",
    group: str = "",
    hd: float = 0,
    size: str = "medium",
    image: str = AS_IS,
) -> InstanceScore:
    return InstanceScore(
        key=key,
        class_name=key.split("/")[0],
        instance=0,
        group=group or key,
        size=size,
        diameter_px=60,
        image=image,
        prompt=prompt,
        prompt_coords="1.00 2.00 3.00 4.00",
        height=60,
        width=80,
        dice=dice,
        iou=dice / (2 - dice),
        nsd=dice**2,
        hd=hd,
        hd_manhattan=hd,
        hd95=hd,
        hd_rows=hd,
        iou_prediction=0.5,
    )


SCORES = [
    score(0.9, "benign/benign (1)", hd=4, size="large"),
    score(0.6, "benign/benign (2)", hd=10, size="small"),
    score(0.3, "malignant/malignant (1)", hd=40, size="small"),
    score(0.5, "benign/benign (1)", prompt="centre_point"),
]


def test_each_prompt_is_summarised_over_everything_by_class_and_by_size() -> None:
    summaries = summarise(SCORES, seed=0)
    assert [(s.prompt, s.class_name, s.size, s.lesions) for s in summaries] == [
        ("box_5%", "all", "all", 3),
        ("box_5%", "benign", "all", 2),
        ("box_5%", "malignant", "all", 1),
        ("box_5%", "all", "small", 2),
        ("box_5%", "all", "large", 1),
        ("centre_point", "all", "all", 1),
        ("centre_point", "benign", "all", 1),
        ("centre_point", "all", "medium", 1),
    ]
    every = summaries[0]
    assert every.dice.mean == pytest.approx(0.6)
    assert every.dice.median == pytest.approx(0.6)
    assert every.dice.worst == 0.3
    assert every.dice_worst_key == "malignant/malignant (1)"
    assert (every.hd.mean, every.hd.median, every.hd.worst) == (18, 10, 40)
    assert summaries[1].dice.mean == pytest.approx(0.75)
    assert summaries[3].dice.mean == pytest.approx(0.45)
    assert every.nsd.mean == pytest.approx((0.81 + 0.36 + 0.09) / 3)
    assert every.nsd.worst == pytest.approx(0.09)


def test_near_duplicates_widen_the_interval() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 50).clip(0, 1)
    independent = [score(float(v), f"benign/benign ({i})") for i, v in enumerate(values)]
    copied = [
        score(float(v), f"benign/benign ({i}{copy})", group=f"group {i}")
        for i, v in enumerate(values)
        for copy in "abcd"
    ]
    # Four copies of each image tell no more than one.
    assert summarise(copied, seed=0)[0].dice_interval == pytest.approx(
        summarise(independent, seed=0)[0].dice_interval, abs=0.005
    )


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    assert summarise(SCORES, seed=1) == summarise(SCORES, seed=1)
    scores = [score(v / 100, f"benign/benign ({v})") for v in range(100)]
    assert summarise(scores, seed=1)[0].dice_interval != summarise(scores, seed=2)[0].dice_interval


def test_each_image_and_each_protocol_on_it_comes_once() -> None:
    exact = BoxProtocol(0.0)
    merged = merge_variants(
        [
            Variant((JITTERED_BOX,)),
            Variant((JITTERED_BOX,), gain(2.0)),
            Variant((exact, JITTERED_BOX)),
            Variant((CENTRE_POINT,), gain(2.0)),
        ]
    )
    assert merged == [
        Variant((JITTERED_BOX, exact)),
        Variant((JITTERED_BOX, CENTRE_POINT), gain(2.0)),
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
