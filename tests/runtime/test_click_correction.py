"""Masks corrected click by click."""

import numpy as np
import pytest

from samus_edge.runtime import Segmenter
from samus_edge.runtime.check_frame import load_check_frames
from samus_edge.runtime.click_correction import predict_with_clicks, shift_to_clicks

DISC = np.where(np.hypot(*(np.mgrid[:64, :64] - 32.0)) < 15, 3.0, -3.0).astype(np.float32)


def test_a_click_that_is_right_changes_nothing() -> None:
    sure = DISC * 2
    points, labels = np.array([[64.0, 64.0], [4.0, 4.0]]), np.array([1, 0], np.int32)
    np.testing.assert_array_equal(shift_to_clicks(sure, points, labels, (128, 128)), sure)


@pytest.mark.parametrize(
    ("xy", "label"), [((70.0, 60.0), 0), ((20.0, 100.0), 1), ((0.0, 127.0), 1)]
)
def test_the_clicked_pixel_follows_and_what_is_far_does_not(
    xy: tuple[float, float], label: int
) -> None:
    shifted = shift_to_clicks(DISC, np.array([xy]), np.array([label], np.int32), (128, 128))
    row, column = round((xy[1] + 0.5) / 2 - 0.5), round((xy[0] + 0.5) / 2 - 0.5)
    assert (shifted[row, column] > 0) == (label == 1)
    far = shifted[63 - row, 63 - column] if label == 1 else shifted[0, 0]
    assert abs(far) > 1


def test_a_click_near_the_border_moves_the_border_only() -> None:
    points, labels = np.array([[92.0, 64.0]]), np.array([0], np.int32)  # just inside
    shifted = shift_to_clicks(DISC, points, labels, (128, 128))
    changed = (shifted > 0) != (DISC > 0)
    assert 0 < changed.sum() < 0.1 * (DISC > 0).sum()


def test_without_clicks_it_is_what_the_segmenter_gives() -> None:
    frame = load_check_frames()[1]
    with Segmenter.load(threads=1) as segmenter:
        embedding = segmenter.encode(frame.image)
        own = predict_with_clicks(segmenter, embedding, box=frame.box)
        expected = segmenter.predict(embedding, boxes=frame.box[None])
        np.testing.assert_array_equal(own.masks, expected.masks)
        x, y = (float(value) for value in frame.point)
        one = predict_with_clicks(segmenter, embedding, point_coords=[[x, y]], point_labels=[1])
        assert one.masks.shape == (1, 1, *frame.image.shape)
        assert one.masks[0, 0, round(y), round(x)]


def test_a_click_beside_the_lesion_takes_it_away_there_and_back() -> None:
    frame = load_check_frames()[1]
    with Segmenter.load(threads=1) as segmenter:
        embedding = segmenter.encode(frame.image)
        before = predict_with_clicks(segmenter, embedding, box=frame.box)
        mask = before.masks[0, 0]
        rows, columns = np.nonzero(mask)
        x, y = int(columns.min() + 12), int(rows[columns == columns.min() + 12].mean())
        assert mask[y, x]
        after, again = (
            predict_with_clicks(
                segmenter, embedding, box=frame.box, point_coords=[[x, y]], point_labels=[0]
            )
            for _ in range(2)
        )
    assert not after.masks[0, 0, y, x]
    assert 0.5 * mask.sum() < after.masks.sum() < mask.sum()
    np.testing.assert_array_equal(after.masks, again.masks)


def test_bad_prompts_are_refused() -> None:
    frame = load_check_frames()[0]
    with Segmenter.load(threads=1) as segmenter:
        embedding = segmenter.encode(frame.image)
        with pytest.raises(ValueError, match="no prompt"):
            predict_with_clicks(segmenter, embedding)
        with pytest.raises(ValueError, match="1 points and 2 labels"):
            predict_with_clicks(segmenter, embedding, point_coords=[[1, 1]], point_labels=[1, 0])
        with pytest.raises(ValueError, match="outside the image"):
            predict_with_clicks(
                segmenter, embedding, box=frame.box, point_coords=[[9999, 1]], point_labels=[1]
            )
