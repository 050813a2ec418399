"""The segmenter on a bundle whose masks can be computed by hand, and on a real one."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime import Prediction, Segmenter
from samus_edge.runtime.bundle.check_frame import load_check_frames


def test_clicks_on_a_real_frame_are_obeyed_and_scored_again() -> None:
    frame = load_check_frames()[1]
    with Segmenter.load(threads=1) as segmenter:
        embedding = segmenter.encode(frame.image)
        before = segmenter.predict(embedding, boxes=frame.box[None])
        mask = before.masks[0, 0]
        rows, columns = np.nonzero(mask)
        x, y = int(columns.min() + 12), int(rows[columns == columns.min() + 12].mean())
        assert mask[y, x]
        after, again = (
            segmenter.predict(
                embedding, boxes=frame.box[None], point_coords=[[[x, y]]], point_labels=[[0]]
            )
            for _ in range(2)
        )
        assert not after.masks[0, 0, y, x]
        assert 0.5 * mask.sum() < after.masks.sum() < mask.sum()
        assert_identical(after, again)
        # The middle of the lesion clicked away: whatever is left is no good mask.
        x, y = (int(value) for value in (np.median(columns), np.median(rows)))
        nonsense = segmenter.predict(
            embedding, boxes=frame.box[None], point_coords=[[[x, y]]], point_labels=[[0]]
        )
    assert not nonsense.masks[0, 0, y, x]
    assert nonsense.iou_predictions[0, 0] < 0.5 < after.iou_predictions[0, 0]


# A disc's edge may fall on either side of a pixel's centre.
EDGE_PX = 1
BLACK = np.zeros((480, 640), np.uint8)
# Radius 40 of the first mask, from pixels of the 256 x 256 frame to pixels of 480 x 640.
RADIUS_XY = (40 * 640 / 256, 40 * 480 / 256)


def disc(
    centre_xy: tuple[float, float],
    radius_xy: tuple[float, float] = RADIUS_XY,
    hw: tuple[int, int] = (480, 640),
) -> npt.NDArray[np.bool_]:
    """What the decoder draws, at the original size."""
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    x = (columns - centre_xy[0]) / radius_xy[0]
    y = (rows - centre_xy[1]) / radius_xy[1]
    return np.asarray(x**2 + y**2 < 1)


def assert_same_but_for_edges(mask: npt.NDArray[np.bool_], expected: npt.NDArray[np.bool_]) -> None:
    """Equal but for pixels beside the expected edge."""
    padded = np.pad(expected, EDGE_PX, mode="edge")
    shifts = [
        padded[row : row + expected.shape[0], column : column + expected.shape[1]]
        for row in range(2 * EDGE_PX + 1)
        for column in range(2 * EDGE_PX + 1)
    ]
    inside, outside = np.all(shifts, axis=0), ~np.any(shifts, axis=0)
    assert mask[inside].all()
    assert not mask[outside].any()


def assert_identical(first: Prediction, second: Prediction) -> None:
    """Equal to the last bit."""
    np.testing.assert_array_equal(first.masks, second.masks)
    np.testing.assert_array_equal(first.low_res_logits, second.low_res_logits)
    np.testing.assert_array_equal(first.iou_predictions, second.iou_predictions)


def test_a_box_is_segmented_in_the_frame_of_the_image(disc_segmenter: Segmenter) -> None:
    prediction = disc_segmenter.segment(BLACK, boxes=[[100, 50, 300, 250]])
    assert prediction.masks.shape == (1, 1, 480, 640)
    assert prediction.masks.dtype == np.bool_
    assert prediction.low_res_logits.shape == (1, 1, 128, 128)
    assert prediction.iou_predictions.shape == (1, 1)
    assert prediction.original_hw == (480, 640)
    assert_same_but_for_edges(prediction.masks[0, 0], disc((200, 150)))


@pytest.mark.parametrize("hw", [(300, 200), (77, 401), (1000, 300), (256, 256)])
def test_images_of_any_shape_are_segmented(disc_segmenter: Segmenter, hw: tuple[int, int]) -> None:
    height, width = hw
    centre = (0.4 * width, 0.6 * height)
    prediction = disc_segmenter.segment(
        np.zeros(hw, np.uint8), point_coords=[centre], point_labels=[1]
    )
    radius = (40 * width / 256, 40 * height / 256)
    assert_same_but_for_edges(prediction.masks[0, 0], disc(centre, radius, hw))


def test_the_smallest_image_is_segmented(disc_segmenter: Segmenter) -> None:
    prediction = disc_segmenter.segment(np.zeros((1, 1), np.uint8), point_coords=[[0, 0]])
    assert prediction.masks.tolist() == [[[[True]]]]


def test_every_prompt_has_its_own_mask(disc_segmenter: Segmenter) -> None:
    prediction = disc_segmenter.segment(BLACK, boxes=[[100, 50, 300, 250], [350, 200, 450, 300]])
    assert prediction.masks.shape == (2, 1, 480, 640)
    assert_same_but_for_edges(prediction.masks[0, 0], disc((200, 150)))
    assert_same_but_for_edges(prediction.masks[1, 0], disc((400, 250)))


def test_a_box_and_its_points_are_one_prompt(disc_segmenter: Segmenter) -> None:
    prediction = disc_segmenter.segment(
        BLACK, boxes=[[100, 50, 300, 250]], point_coords=[[320, 300]], point_labels=[1]
    )
    assert prediction.masks[0, 0, 300, 320]
    network = disc_segmenter.decode(
        disc_segmenter.encode(BLACK),
        boxes=[[100, 50, 300, 250]],
        point_coords=[[320, 300]],
        point_labels=[1],
    )
    # The mean of (100, 50), (300, 250) and (320, 300).
    assert_same_but_for_edges(network.masks[0, 0], disc((240, 200)))


def test_the_image_reaches_the_decoder(disc_segmenter: Segmenter) -> None:
    prediction = disc_segmenter.segment(BLACK + 255, boxes=[[100, 50, 300, 250]])
    # White adds 10 pixels to the radius of 40.
    grown = (RADIUS_XY[0] * 50 / 40, RADIUS_XY[1] * 50 / 40)
    assert_same_but_for_edges(prediction.masks[0, 0], disc((200, 150), grown))


def test_rgb_is_made_grey(disc_segmenter: Segmenter) -> None:
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    embedding = disc_segmenter.encode(red)
    np.testing.assert_allclose(embedding.image_embeddings, 76 / 255, rtol=1e-6)


def test_encode_once_and_predict_often_is_the_same_as_segment(disc_segmenter: Segmenter) -> None:
    embedding = disc_segmenter.encode(BLACK)
    assert embedding.image_embeddings.shape == (1, 256, 32, 32)
    assert embedding.original_hw == (480, 640)
    for box in ([100, 50, 300, 250], [5, 5, 60, 90]):
        assert_identical(
            disc_segmenter.predict(embedding, boxes=[box]),
            disc_segmenter.segment(BLACK, boxes=[box]),
        )


def test_multimask_gives_the_three_alternatives(disc_segmenter: Segmenter) -> None:
    embedding = disc_segmenter.encode(BLACK)
    prediction = disc_segmenter.predict(
        embedding, boxes=[[100, 50, 300, 250]], multimask_output=True
    )
    assert prediction.masks.shape == (1, 3, 480, 640)
    for index, radius in enumerate((20, 30, 60)):
        scaled = (RADIUS_XY[0] * radius / 40, RADIUS_XY[1] * radius / 40)
        assert_same_but_for_edges(prediction.masks[0, index], disc((200, 150), scaled))
    # Two box corners, and 0.2, 0.3, 0.4 for masks 1 to 3.
    np.testing.assert_allclose(prediction.iou_predictions, [[2.2, 2.3, 2.4]], rtol=1e-6)


def test_a_mask_input_reaches_its_own_prompt(disc_segmenter: Segmenter) -> None:
    embedding = disc_segmenter.encode(BLACK)
    boxes = [[100, 50, 300, 250], [350, 200, 450, 300]]
    mask_input = np.zeros((2, 1, 128, 128), np.float32)
    mask_input[1] = -1000
    prediction = disc_segmenter.predict(embedding, boxes=boxes, mask_input=mask_input)
    assert prediction.masks[0].any()
    assert not prediction.masks[1].any()
    again = disc_segmenter.predict(
        embedding, boxes=boxes, mask_input=prediction.low_res_logits[:, :1]
    )
    np.testing.assert_allclose(again.low_res_logits[0], 2 * prediction.low_res_logits[0], rtol=1e-5)


def test_a_prompt_is_independent_of_the_others_in_its_call(disc_segmenter: Segmenter) -> None:
    """Rows with one, two and no points are not padded to the longest."""
    boxes = [[100, 50, 300, 250], [350, 200, 450, 300], [10, 10, 90, 90]]
    coords = [[[150, 100], [160, 90]], [[400, 250], [0, 0]], [[0, 0], [0, 0]]]
    labels = [[1, 0], [1, -1], [-1, -1]]
    embedding = disc_segmenter.encode(BLACK)
    together = disc_segmenter.predict(
        embedding, boxes=boxes, point_coords=coords, point_labels=labels
    )
    # 0.1 for mask 0, and the number of points that the decoder was given: 4, 3 and 2.
    np.testing.assert_allclose(together.iou_predictions, [[4.1], [3.1], [2.1]], rtol=1e-6)
    for row in range(3):
        alone = disc_segmenter.predict(
            embedding,
            boxes=boxes[row : row + 1],
            point_coords=coords[row : row + 1],
            point_labels=labels[row : row + 1],
        )
        np.testing.assert_array_equal(alone.masks[0], together.masks[row])


def test_the_mask_threshold_is_the_manifests(disc_bundle_copy: Path) -> None:
    file = disc_bundle_copy / "manifest.json"
    file.write_text(file.read_text().replace('"mask_threshold": 0.0', '"mask_threshold": 20.0'))
    prediction = Segmenter.load(disc_bundle_copy, threads=1).segment(
        BLACK, boxes=[[100, 50, 300, 250]]
    )
    halved = (RADIUS_XY[0] / 2, RADIUS_XY[1] / 2)
    assert_same_but_for_edges(prediction.masks[0, 0], disc((200, 150), halved))


def test_a_segmenter_says_what_computes(disc_segmenter: Segmenter, disc_bundle: Path) -> None:
    assert disc_segmenter.bundle.folder == disc_bundle
    assert disc_segmenter.backend.name == "onnxruntime"
    assert disc_segmenter.backend.threads == 1
    assert disc_segmenter.precision == "fp32"


def test_the_class_docstring_runs(disc_bundle: Path) -> None:
    image = np.zeros((300, 400), np.uint8)
    with Segmenter.load(disc_bundle) as segmenter:
        prediction = segmenter.segment(image, boxes=[[100, 50, 300, 250]])
    assert prediction.masks.shape == (1, 1, 300, 400)
