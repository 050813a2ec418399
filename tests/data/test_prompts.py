"""Simulated boxes and clicks lie where a user would put them."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samus_edge.data.prompts import (
    BoxConfig,
    simulate_background_click,
    simulate_box,
    simulate_click,
    simulate_correction,
    simulate_phantom,
)

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
    box = simulate_box(mask, np.random.default_rng(seed), BoxConfig())
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
    boxes = np.stack([simulate_box(mask, rng, BoxConfig()) for _ in range(200)])
    assert (boxes[:, 0] <= boxes[:, 1]).all()


def test_evenly_loose_boxes_leave_the_same_room_on_every_side() -> None:
    mask = np.zeros((200, 200), dtype=np.bool_)
    mask[60:140, 80:120] = True  # rows 60 to 139, columns 80 to 119
    config = BoxConfig(jitter_share=0.0, loose_share=0.0, evenly_loose_share=1.0, looseness=0.25)
    rng = np.random.default_rng(0)
    boxes = np.stack([simulate_box(mask, rng, config) for _ in range(300)]).astype(np.float64)
    room = np.concatenate(
        [(np.array([80, 60]) - boxes[:, 0]), (boxes[:, 1] - np.array([119, 139]))], axis=1
    ) / np.array([40, 80, 40, 80])  # of each side
    np.testing.assert_allclose(room, room[:, :1] @ np.ones((1, 4)), atol=1e-6)
    assert 0.0 <= room.min() < 0.02 and 0.23 < room.max() <= 0.25


def test_what_the_shares_leave_over_is_drawn_carefully() -> None:
    mask = np.zeros((200, 200), dtype=np.bool_)
    mask[50:150, 50:150] = True
    config = BoxConfig(jitter_share=0.3, jitter=0.4, loose_share=0.2, evenly_loose_share=0.1)
    rng = np.random.default_rng(0)
    boxes = np.stack([simulate_box(mask, rng, config) for _ in range(2000)])
    moved = np.abs(boxes.reshape(-1, 4) - np.array([50, 50, 149, 149])).max(axis=1)
    # of 100 pixels; boxes of the other kinds may come out as close by chance
    assert 0.40 <= (moved <= 5.0).mean() <= 0.47


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"jitter_share": 0.6, "loose_share": 0.6}, "add up to at most 1"),
        ({"looseness": -0.1}, "boxes.looseness must be in"),
        ({"jitter": 0.5}, "boxes.jitter must be less than 0.5"),
    ],
)
def test_box_settings_are_checked(settings_: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxConfig(**settings_)


@given(masks(), SEEDS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_background_clicks_miss_the_lesion(mask: npt.NDArray[np.bool_], seed: int) -> None:
    click, label = simulate_background_click(mask, np.random.default_rng(seed))
    assert click.shape == (1, 2) and click.dtype == np.float32
    if mask.all():
        assert label == -1
        return
    x, y = click[0].astype(int)
    assert (label, bool(mask[y, x])) == (0, False)


def test_half_of_the_background_clicks_are_close_to_the_lesion() -> None:
    """Close is half the side of a square as large as the lesion: 10 of 100 pixels here."""
    mask = np.zeros((100, 100), dtype=np.bool_)
    mask[40:60, 40:60] = True
    rng = np.random.default_rng(0)
    clicks = np.concatenate([simulate_background_click(mask, rng)[0] for _ in range(400)])
    beyond = np.maximum(np.abs(clicks - 49.5) - 9.5, 0)  # from the lesion's edge, in x and y
    near = (np.hypot(*beyond.T) <= 10.5).mean()
    assert 0.5 < near < 0.65  # a tenth of the other half is as close
    assert np.hypot(*beyond.T).max() > 30


def test_a_frame_without_a_lesion_is_clicked_anywhere() -> None:
    empty = np.zeros((100, 100), dtype=np.bool_)
    rng = np.random.default_rng(0)
    found = [simulate_background_click(empty, rng) for _ in range(300)]
    assert {label for _, label in found} == {0}
    clicks = np.concatenate([click for click, _ in found])
    assert (np.abs(clicks.mean(axis=0) - 49.5) < 6).all()  # three deviations: 29 / sqrt(300)
    assert clicks.min() < 10 and clicks.max() > 90


def test_phantoms_are_ellipses_of_the_size_of_lesions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        phantom = simulate_phantom(200, rng)
        assert phantom.shape == (200, 200) and phantom.dtype == np.bool_
        rows, columns = np.nonzero(phantom)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        if min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 199:
            assert 0.05 * 200 * 2 - 2 <= min(height, width)
            assert max(height, width) <= 0.25 * 200 * 2 + 1
            filled = phantom.sum() / (height * width)
            assert abs(filled - np.pi / 4) < 0.08  # an ellipse in its box
        count, _ = cv2.connectedComponents(phantom.astype(np.uint8))
        assert count == 2
