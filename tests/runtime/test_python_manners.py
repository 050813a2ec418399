"""What a notebook wants: images as they lie about, and predictions in other shapes."""

import json
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from samus_edge.errors import BadArgumentError, ImageFileError
from samus_edge.runtime import Prediction, Segmenter, read_image
from samus_edge.runtime.cine.cine_source import open_frames
from samus_edge.runtime.images.overlay import mask_image

EXAMPLE = Path(__file__).parents[2] / "examples/benign_80.png"
BOX = [[135, 88, 446, 368]]


def same(first: Prediction, second: Prediction) -> bool:
    return np.array_equal(first.low_res_logits, second.low_res_logits)


def test_a_path_is_read_as_infer_reads_it(disc_segmenter: Segmenter, tmp_path: Path) -> None:
    files = [EXAMPLE]
    try:
        from pydicom.data import get_testdata_file
    except ModuleNotFoundError:
        pass
    else:
        files.append(Path(str(get_testdata_file("examples_ybr_color.dcm"))))
    turned = tmp_path / "turned.jpg"
    exif = PIL.Image.Exif()
    exif[274] = 6
    PIL.Image.open(EXAMPLE).save(turned, exif=exif)
    for file in [*files, turned]:
        frame = open_frames(file).read(0)
        point = [[frame.shape[1] / 2, frame.shape[0] / 3]]
        expected = disc_segmenter.segment(frame, point_coords=point)
        assert same(disc_segmenter.segment(file, point_coords=point), expected)
        assert same(disc_segmenter.segment(str(file), point_coords=point), expected)
    with pytest.raises(ImageFileError, match="missing"):
        disc_segmenter.segment(tmp_path / "missing.png", boxes=BOX)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_a_picture_of_pillow_is_what_its_file_is(
    disc_segmenter: Segmenter, tmp_path: Path, mode: str
) -> None:
    levels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    if mode == "I;16":
        picture = PIL.Image.fromarray(levels[..., 0].astype(np.uint16) * 100)
    else:
        picture = PIL.Image.fromarray(levels).convert(mode)
    file = tmp_path / "picture.png"
    (picture.convert("RGB") if mode == "CMYK" else picture).save(file)
    expected = disc_segmenter.segment(read_image(file), point_coords=[[20, 20]])
    assert same(disc_segmenter.segment(picture, point_coords=[[20, 20]]), expected)


def test_a_list_of_images_gives_a_list(disc_segmenter: Segmenter) -> None:
    images = [np.full((40, 50), grey, np.uint8) for grey in (20, 200)]
    boxes = [[[5, 5, 20, 20]], [[5, 5, 20, 20], [10, 10, 30, 30]]]
    found = disc_segmenter.segment(images, boxes=boxes)
    for image, box, prediction in zip(images, boxes, found, strict=True):
        assert same(prediction, disc_segmenter.segment(image, boxes=box))
    mixed = disc_segmenter.segment(images, boxes=[boxes[0], None], point_coords=[None, [[5, 5]]])
    assert same(mixed[0], found[0])
    with pytest.raises(BadArgumentError, match="boxes must have one entry for each of 2 images"):
        disc_segmenter.segment(images, boxes=boxes[:1])


@pytest.fixture(scope="module")
def prediction(disc_segmenter: Segmenter) -> Prediction:
    """Two overlapping masks and an empty one, of three alternatives each."""
    image = np.full((60, 80), 90, np.uint8)
    found = disc_segmenter.segment(
        image, boxes=[[20, 20, 40, 40], [30, 30, 50, 50], [1, 1, 9, 9]], multimask_output=True
    )
    found.masks[2] = False
    return found


def test_the_alternative_of_the_highest_score_is_shown(prediction: Prediction) -> None:
    masks, scores = prediction.best()
    assert np.array_equal(scores, prediction.iou_predictions.max(axis=1))
    assert np.array_equal(masks, prediction.masks[:, 2])  # the last has the highest here
    areas = []
    for outlines in prediction.contours():
        area = 0.0
        for x, y in (outline.T for outline in outlines):
            area += 0.5 * float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())
        areas.append(abs(area))
    assert areas == masks.sum(axis=(1, 2)).tolist()


def test_supervision_computes_the_same_areas(prediction: Prediction) -> None:
    pytest.importorskip("supervision")
    found = prediction.to_supervision()
    masks, scores = prediction.best()
    assert found.data["prompt"].tolist() == [0, 1]  # the third is empty
    assert found.area.tolist() == masks[:2].sum(axis=(1, 2)).tolist()
    assert found.confidence is not None and np.array_equal(found.confidence, scores[:2])
    rows, columns = np.nonzero(masks[0])
    assert found.xyxy[0].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]


def test_predictions_are_drawn_and_saved(prediction: Prediction, tmp_path: Path) -> None:
    picture = prediction.draw(np.full((60, 80), 90, np.uint8))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and (picture != 90).any()
    with pytest.raises(BadArgumentError, match=r"\(60, 80\)"):
        prediction.draw(np.zeros((80, 60), np.uint8))
    masks, scores = prediction.best()
    prediction.save(tmp_path / "masks.png")
    stored = cv2.imread(str(tmp_path / "masks.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(np.asarray(stored), mask_image(masks))
    prediction.save(tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz") as arrays:
        assert np.array_equal(arrays["masks"], masks)
        assert np.array_equal(arrays["iou_predictions"], scores)
    prediction.save(str(tmp_path / "masks.json"))
    document = json.loads((tmp_path / "masks.json").read_text())
    assert document == prediction.to_coco()
    assert [each["area"] for each in document["annotations"]] == masks[:2].sum(axis=(1, 2)).tolist()
    with pytest.raises(BadArgumentError, match=r"masks\.jpg"):
        prediction.save(tmp_path / "masks.jpg")
