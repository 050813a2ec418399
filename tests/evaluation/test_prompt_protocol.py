"""Evaluation prompts against hand-computed shapes; the same in every run."""

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samus_edge.evaluation.prompt_protocol import (
    CENTRE_POINT,
    JITTERED_BOX,
    STANDARD_PROTOCOLS,
    BoxProtocol,
    box_sweep,
    case_generator,
    centre_point,
    jittered_box,
    mask_box,
)

Mask = npt.NDArray[np.bool_]

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(2, 30), st.integers(2, 30))).filter(np.any)


def rectangle(image_hw: tuple[int, int], x1: int, y1: int, x2: int, y2: int) -> Mask:
    """A mask of one rectangle, x2 and y2 excluded."""
    mask = np.zeros(image_hw, dtype=np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def test_a_box_holds_the_indices_of_the_outermost_pixels() -> None:
    mask = rectangle((50, 80), 20, 10, 60, 30)
    np.testing.assert_array_equal(mask_box(mask), [20, 10, 59, 29])
    assert mask_box(mask).dtype == np.float32


def test_each_edge_moves_by_its_own_share_of_the_side() -> None:
    mask = rectangle((200, 300), 100, 50, 200, 90)  # 100 wide, 40 high
    boxes = np.array(
        [jittered_box(mask, 0.05, np.random.default_rng(seed)) for seed in range(2000)]
    )
    moved = np.abs(boxes - [100, 50, 199, 89])
    limits = np.array([5.0, 2.0, 5.0, 2.0])
    assert (moved <= limits + 1e-3).all()
    # Uniform on 0..limit: the mean is half, with a standard error of 0.65 % of the limit.
    np.testing.assert_allclose(moved.mean(axis=0), limits / 2, rtol=0.05)
    assert np.abs(np.corrcoef(boxes.T) - np.eye(4)).max() < 0.1  # independent of each other


def test_the_jitter_of_one_lesion_moves_edges_in_the_same_direction() -> None:
    mask = rectangle((200, 300), 100, 50, 200, 90)
    exact = mask_box(mask)
    moves = [
        jittered_box(mask, jitter, case_generator("benign/benign (1)", 0, 0)) - exact
        for jitter in (0.05, 0.10, 0.20)
    ]
    np.testing.assert_allclose(moves[1], 2 * moves[0], atol=1e-3)
    np.testing.assert_allclose(moves[2], 4 * moves[0], atol=1e-3)


def test_no_jitter_gives_the_exact_box() -> None:
    mask = rectangle((50, 80), 20, 10, 60, 30)
    np.testing.assert_array_equal(
        jittered_box(mask, 0.0, np.random.default_rng(0)), [20, 10, 59, 29]
    )


def test_a_box_is_clipped_to_the_image() -> None:
    mask = np.ones((50, 80), dtype=np.bool_)
    for seed in range(50):
        x1, y1, x2, y2 = jittered_box(mask, 0.2, np.random.default_rng(seed))
        assert x1 >= 0 and y1 >= 0 and x2 <= 79 and y2 <= 49


@pytest.mark.parametrize(
    ("column", "expected"), [(0, [0, 1]), (5, [4.5, 5.5]), (9, [8, 9])], ids=str
)
def test_a_box_of_one_column_is_widened_to_one_pixel(column: int, expected: list[float]) -> None:
    mask = rectangle((20, 10), column, 3, column + 1, 9)
    box = jittered_box(mask, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(box[[0, 2]], expected)


@given(MASKS, st.floats(0.0, 0.49), st.integers(0, 2**32))
@settings(deadline=None, derandomize=True)
def test_any_box_has_area_and_lies_in_the_image(mask: Mask, jitter: float, seed: int) -> None:
    x1, y1, x2, y2 = jittered_box(mask, jitter, np.random.default_rng(seed))
    height, width = mask.shape
    assert 0 <= x1 < x2 <= width - 1
    assert 0 <= y1 < y2 <= height - 1


def test_the_centre_of_a_rectangle_is_its_centroid() -> None:
    np.testing.assert_allclose(centre_point(rectangle((50, 80), 20, 10, 60, 31)), [39.5, 20.0])


def test_the_centre_of_a_ring_is_its_deepest_pixel() -> None:
    # A frame 3 pixels thick, but 5 on the right: the centroid is in the hole, the deepest pixels
    # are in the middle column of the right side, 3 from the outside, the first of them at row 5.
    mask = rectangle((40, 40), 3, 3, 30, 33)
    mask[6:30, 6:25] = False
    np.testing.assert_array_equal(centre_point(mask), [27, 5])


def test_the_outside_of_the_image_counts_as_outside() -> None:
    # Two parts with the centroid between them; the larger touches the image's corner.
    mask = rectangle((30, 30), 0, 0, 7, 7) | rectangle((30, 30), 24, 24, 27, 27)
    mask[3, 20] = True
    assert not mask[tuple(np.rint(np.argwhere(mask).mean(axis=0)).astype(int))]
    np.testing.assert_array_equal(centre_point(mask), [3, 3])


@given(MASKS)
@settings(deadline=None, derandomize=True)
def test_any_centre_is_on_the_mask(mask: Mask) -> None:
    x, y = np.floor(centre_point(mask) + 0.5).astype(int)
    assert mask[y, x]


def test_prompts_depend_on_case_lesion_and_seed() -> None:
    mask = rectangle((200, 300), 100, 50, 200, 90)

    def box(key: str, instance: int, seed: int) -> tuple[float, ...]:
        return tuple(jittered_box(mask, 0.05, case_generator(key, instance, seed)))

    assert box("benign/benign (1)", 0, 0) == box("benign/benign (1)", 0, 0)
    drawn = {box("benign/benign (1)", 0, 0), box("benign/benign (1)", 1, 0)}
    drawn |= {box("benign/benign (1)", 0, 1), box("benign/benign (2)", 0, 0)}
    assert len(drawn) == 4


def test_prompts_are_the_same_in_another_process() -> None:
    program = (
        "from samus_edge.evaluation.prompt_protocol import case_generator\n"
        "print(case_generator('benign/benign (1)', 0, 0).integers(1 << 62))"
    )
    drawn = {
        subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert drawn == {f"{case_generator('benign/benign (1)', 0, 0).integers(1 << 62)}\n"}


def test_protocols_have_distinct_names_and_the_sweep_holds_the_standard_box() -> None:
    assert [protocol.name for protocol in STANDARD_PROTOCOLS] == ["box_5%", "centre_point"]
    assert [protocol.name for protocol in box_sweep()] == [
        "box_exact",
        "box_5%",
        "box_10%",
        "box_15%",
        "box_20%",
    ]
    assert JITTERED_BOX in box_sweep()
    assert CENTRE_POINT.name == "centre_point"


@pytest.mark.parametrize("jitter", [-0.01, 0.5, float("nan")])
def test_a_jitter_out_of_range_raises_and_is_named(jitter: float) -> None:
    with pytest.raises(ValueError, match=f"jitter must be .* got {jitter}"):
        BoxProtocol(jitter)
    with pytest.raises(ValueError, match=f"jitter must be .* got {jitter}"):
        jittered_box(np.ones((4, 4), dtype=np.bool_), jitter, np.random.default_rng(0))


def test_an_empty_mask_raises() -> None:
    empty = np.zeros((4, 5), dtype=np.bool_)
    for prompt in (mask_box, centre_point):
        with pytest.raises(ValueError, match=r"at least one pixel set, got shape \(4, 5\) with 0"):
            prompt(empty)
