"""Simulated boxes and clicks lie where a user would put them."""

import cv2
import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from samus_edge.data.prompts import simulate_box, simulate_click, simulate_correction

SIZE = 32


@st.composite
def masks(draw: st.DrawFn) -> npt.NDArray[np.bool_]:
    """(32, 32) masks: up to three rectangles anywhere, at times a hole; never empty."""
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    for _ in range(draw(st.integers(1, 3))):
        top, left = draw(st.integers(0, SIZE - 1)), draw(st.integers(0, SIZE - 1))
        height, width = draw(st.integers(1, SIZE)), draw(st.integers(1, SIZE))
        mask[top : top + height, left : left + width] = True
    if draw(st.booleans()):
        row, column = draw(st.integers(0, SIZE - 4)), draw(st.integers(0, SIZE - 4))
        holed = mask.copy()
        holed[row : row + 4, column : column + 4] = False
        mask = holed if holed.any() else mask
    return mask


SEEDS = st.integers(0, 2**32 - 1)


@given(masks(), SEEDS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_boxes_are_near_the_lesion_and_inside_the_frame(
    mask: npt.NDArray[np.bool_], seed: int
) -> None:
    box = simulate_box(mask, np.random.default_rng(seed))
    assert box.shape == (2, 2) and box.dtype == np.float32
    assert (box >= 0).all() and (box <= SIZE - 1).all()
    assert (box[0] <= box[1]).all()  # top left first
    rows, columns = np.nonzero(mask)
    tight = np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]])
    sides = tight[1] - tight[0] + 1
    assert (box[0] >= tight[0] - 0.2 * sides - 1e-3).all()  # never looser than a fifth
    assert (box[1] <= tight[1] + 0.2 * sides + 1e-3).all()
    assert (box[0] <= tight[0] + 0.12 * sides + 1e-3).all()  # never cuts off more than an eighth
    assert (box[1] >= tight[1] - 0.12 * sides - 1e-3).all()


@given(masks(), SEEDS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_clicks_hit_the_lesion(mask: npt.NDArray[np.bool_], seed: int) -> None:
    click = simulate_click(mask, np.random.default_rng(seed))
    assert click.shape == (1, 2) and click.dtype == np.float32
    x, y = click[0].astype(int)
    assert (click[0] == (x, y)).all()
    assert mask[y, x]


@given(masks(), masks(), SEEDS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_corrections_hit_the_largest_wrong_region_with_the_true_label(
    mask: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_], seed: int
) -> None:
    click, label = simulate_correction(mask, predicted, np.random.default_rng(seed))
    assert click.shape == (1, 2) and click.dtype == np.float32
    x, y = click[0].astype(int)
    assert label == int(mask[y, x])
    wrong = mask ^ predicted
    if not wrong.any():
        assert label == 1
        return
    assert wrong[y, x]
    areas = []
    remaining = wrong.astype(np.uint8)
    while remaining.any():  # flood fill, region by region, with the four neighbours
        row, column = np.argwhere(remaining)[0]
        area, *_ = cv2.floodFill(remaining, None, (int(column), int(row)), 0, flags=4)
        areas.append(area)
    clicked = wrong.astype(np.uint8)
    area, *_ = cv2.floodFill(clicked, None, (int(x), int(y)), 0, flags=4)
    assert area == max(areas)


def test_half_of_the_clicks_are_near_the_middle() -> None:
    mask = np.zeros((100, 100), dtype=np.bool_)
    mask[10:90, 20:80] = True
    rng = np.random.default_rng(0)
    clicks = np.concatenate([simulate_click(mask, rng) for _ in range(400)])
    offsets = np.abs(clicks - (49.5, 49.5)) / (60, 80)  # in widths and heights of the lesion
    # three sigmas of the half near the middle, and 0.48 x 0.48 of the other half
    near = (offsets < 0.24).all(axis=1).mean()
    assert 0.5 < near < 0.75
    assert offsets.max() > 0.4


def test_a_correction_is_well_inside_its_region() -> None:
    truth = np.zeros((64, 64), dtype=np.bool_)
    truth[10:51, 10:51] = True
    rng = np.random.default_rng(0)
    for _ in range(50):
        click, label = simulate_correction(truth, np.zeros_like(truth), rng)
        assert label == 1
        assert (np.abs(click[0] - 30) <= 11).all()  # at least half as deep as the middle


def test_the_edges_of_a_thin_lesion_stay_in_order() -> None:
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    mask[4:28, 7] = True
    rng = np.random.default_rng(0)
    boxes = np.stack([simulate_box(mask, rng) for _ in range(200)])
    assert (boxes[:, 0] <= boxes[:, 1]).all()
