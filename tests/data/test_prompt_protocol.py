"""Evaluation prompts against hand-computed shapes; the same in every run."""

import subprocess
import sys

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samus_edge.data.prompt_protocol import (
    CENTRE_POINT,
    JITTERED_BOX,
    STANDARD_PROTOCOLS,
    BoxConfig,
    BoxProtocol,
    Prompt,
    box_sweep,
    case_generator,
    centre_point,
    jittered_box,
    mask_box,
    prompt_arrays,
    scale_prompt,
    simulate_background_click,
    simulate_box,
    simulate_click,
    simulate_correction,
    simulate_phantom,
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
        "from samus_edge.data.prompt_protocol import case_generator\n"
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


def box(*xyxy: float) -> Prompt:
    return Prompt(box=np.array(xyxy, np.float32))


def point(x: float, y: float) -> Prompt:
    return Prompt(points=np.array([[x, y]], np.float32))


def test_prompts_are_stacked_by_kind() -> None:
    boxes = prompt_arrays([box(1, 2, 3, 4), box(5, 6, 7, 8)])
    np.testing.assert_array_equal(boxes.boxes, [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert boxes.point_coords is None and boxes.point_labels is None
    points = prompt_arrays([point(1, 2), point(3, 4)])
    assert points.boxes is None
    np.testing.assert_array_equal(points.point_coords, [[[1, 2]], [[3, 4]]])
    np.testing.assert_array_equal(points.point_labels, [[1], [1]])
    both = prompt_arrays([Prompt(box(1, 2, 3, 4).box, point(2, 3).points)])
    assert both.boxes is not None and both.boxes.shape == (1, 4)
    assert both.point_coords is not None and both.point_coords.shape == (1, 1, 2)


def test_coordinates_are_written_box_first() -> None:
    both = Prompt(box(1, 2, 3, 4).box, point(2.346, 3).points)
    assert both.coords_text == "1.00 2.00 3.00 4.00 2.35 3.00"
    assert point(5, 6).coords_text == "5.00 6.00"


def test_the_same_place_of_the_resized_image_is_prompted() -> None:
    # Corners of pixels, at half coordinates, scale about the image's corner at (-0.5, -0.5).
    scaled = scale_prompt(box(-0.5, 9.5, 39.5, 29.5), (60, 80), (30, 160))
    assert scaled.box is not None
    np.testing.assert_allclose(scaled.box, [-0.5, 4.5, 79.5, 14.5])
    assert scaled.points.shape == (0, 2)
    scaled = scale_prompt(point(39.5, 29.5), (60, 80), (30, 160))  # the middle stays the middle
    np.testing.assert_allclose(scaled.points, [[79.5, 14.5]])
    assert scaled.box is None


def test_an_unchanged_size_changes_nothing() -> None:
    prompt = box(1.23, 4.56, 7.89, 10.11)
    np.testing.assert_array_equal(scale_prompt(prompt, (60, 80), (60, 80)).box, prompt.box)


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
        assert label == int(mask.any())
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


def test_where_nothing_is_wrong_and_there_is_no_lesion_the_click_is_background() -> None:
    empty = np.zeros((8, 8), np.bool_)
    click, label = simulate_correction(empty, empty, np.random.default_rng(0))
    assert label == 0 and (click >= 0).all() and (click < 8).all()


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
        ({"looseness": -0.1}, "looseness must be in"),
        ({"jitter": 0.5}, r"jitter must be in \[0, 0.5\), got 0.5"),
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
