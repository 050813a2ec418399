"""Annotations of other tools against their own readers, formulas and cases worked out by hand."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from samus_edge.data.annotations import Annotation, read_annotations
from samus_edge.errors import BadArgumentError, DataError, SamusEdgeError

# pycocotools 2.0.11 with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HW = (40, 50)
BLOB = np.zeros(HW, np.bool_)
BLOB[10:20, 5:25] = True
BLOB[13:16, 8:12] = False  # a hole
RECTANGLE = np.zeros(HW, np.bool_)
RECTANGLE[3:8, 2:6] = True
# Its pixels are columns 2 to 5 and rows 3 to 7: with corners at integers it goes from 2 to 6, from
# 3 to 8; with centres at integers from 1.5 to 5.5, from 2.5 to 7.5.
CORNERS = [[2.0, 3.0], [6.0, 3.0], [6.0, 8.0], [2.0, 8.0]]
BOX = (1.5, 2.5, 5.5, 7.5)


def has_mask(annotation: Annotation, mask: npt.NDArray[np.bool_]) -> bool:
    return annotation.mask is not None and np.array_equal(annotation.mask, mask)


def save_image(path: Path, hw: tuple[int, int] = HW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(hw, 90, np.uint8))
    return path


def write_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def coco(path: Path, segmentations: list[Any], **more: Any) -> Path:
    """A COCO file of one image, images/a.png, with these segmentations."""
    annotations = [
        {"id": i, "image_id": 7, "category_id": 3, "segmentation": s, "iscrowd": 0, **more}
        for i, s in enumerate(segmentations, 1)
    ]
    image = {"id": 7, "file_name": "images/a.png", "height": HW[0], "width": HW[1]}
    categories = [{"id": 3, "name": "cyst"}]
    document = {"images": [image], "annotations": annotations, "categories": categories}
    return write_json(path, document)


def test_coco_gives_the_masks_and_boxes_of_pycocotools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compressed = coco_masks.encode(np.asfortranarray(BLOB, np.uint8))
    compressed["counts"] = compressed["counts"].decode()
    ends = np.flatnonzero(np.diff(np.pad(BLOB.ravel(order="F").astype(int), 1))).tolist()
    runs = np.diff([0, *ends, BLOB.size]).tolist()
    star = [10.3, 5.1, 14.8, 20.2, 30.6, 22.7, 18.9, 26.4, 12.2, 37.9, 8.4, 25.5]
    path = coco(
        tmp_path / "a.json",
        [
            compressed,
            {"size": list(HW), "counts": runs},
            [star],
            [star, np.ravel(CORNERS).tolist()],
        ],
    )
    found = read_annotations(path).of(tmp_path / "images/a.png")
    theirs = COCO(str(path))
    capsys.readouterr()  # it prints
    for annotation, expected in zip(found, theirs.loadAnns(theirs.getAnnIds()), strict=True):
        assert annotation.label == "cyst"
        assert annotation.mask is not None
        assert np.array_equal(annotation.mask, theirs.annToMask(expected))
    x, y, width, height = coco_masks.toBbox(compressed)
    assert found[0].box == found[1].box == (x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5)
    assert found[2].box == pytest.approx((7.9, 4.6, 30.1, 37.4))


def test_coco_boxes_become_ours(tmp_path: Path) -> None:
    path = coco(tmp_path / "a.json", [[]], bbox=[2, 3, 4, 5])
    (annotation,) = read_annotations(path).of(Path("a.png"))
    assert annotation.box == BOX and annotation.mask is None


def yolo_line(points: list[list[float]]) -> str:
    flat = [value / side for point in points for value, side in zip(point, HW[::-1], strict=True)]
    return " ".join(["1", *(f"{value:.8f}" for value in flat)])


def test_yolo_boxes_and_polygons_become_ours(tmp_path: Path) -> None:
    image = save_image(tmp_path / "images/train/a.png")
    save_image(tmp_path / "images/val/a.png")
    labels = tmp_path / "labels/train/a.txt"
    labels.parent.mkdir(parents=True)
    labels.write_text(f"0 {4 / 50} {5.5 / 40} {4 / 50} {5 / 40} 0.9\n\n{yolo_line(CORNERS)}\n")
    (tmp_path / "labels/val").mkdir()
    (tmp_path / "labels/val/a.txt").write_text("")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("path: .\ntrain: images/train\nnames:\n  0: cyst\n  1: mass\n")
    for source in (tmp_path, yaml, tmp_path / "labels"):
        annotations = read_annotations(source)
        box, outline = annotations.of(image)
        assert annotations.format == "yolo"
        assert (box.label, outline.label) == ("cyst", "mass")
        assert box.box == pytest.approx(BOX) and box.mask is None
        assert outline.box == pytest.approx(BOX, abs=1e-5)
        assert has_mask(outline, RECTANGLE)
        assert annotations.of(tmp_path / "images/val/a.png") == []


def labelme(path: Path, *shapes: dict[str, Any]) -> list[Annotation]:
    """What is read from a LabelMe file with these shapes."""
    height, width = HW
    full = [{"label": "mass", "group_id": None, "flags": {}, **shape} for shape in shapes]
    document = {"version": "6.3.1", "imagePath": "a.png", "imageData": None, "shapes": full}
    write_json(path / "a.json", {**document, "imageHeight": height, "imageWidth": width})
    return read_annotations(path).of(path / "a.png")


def test_labelme_shapes_become_ours(tmp_path: Path) -> None:
    content = cv2.imencode(".png", BLOB[10:20, 5:25].astype(np.uint8))[1].tobytes()
    polygon = {"shape_type": "polygon", "points": CORNERS}
    found = labelme(
        tmp_path,
        polygon,
        {"shape_type": "rectangle", "points": [[6, 3], [2, 8]]},
        {"shape_type": "circle", "points": [[25.5, 20.5], [35.5, 20.5]]},
        {"shape_type": "point", "points": [[4, 5]]},
        {
            "shape_type": "mask",
            "points": [[5, 10], [24, 19]],
            "mask": base64.b64encode(content).decode(),
        },
        {**polygon, "group_id": 1},
        {"shape_type": "polygon", "points": [[20, 20], [30, 20], [30, 30]], "group_id": 1},
    )
    outline, box, circle, point, stored, group = found
    assert has_mask(outline, RECTANGLE)
    assert outline.box == box.box == BOX and box.mask is None
    rows, columns = np.mgrid[: HW[0], : HW[1]]
    disc = (columns - 25) ** 2 + (rows - 20) ** 2 <= 10**2  # the centre is that of pixel (25, 20)
    assert circle.mask is not None
    assert np.count_nonzero(circle.mask != disc) <= 12  # of 317: those that the circle touches
    assert point.points == ((3.5, 4.5),) and point.box is None and point.mask is None
    assert has_mask(stored, BLOB)
    assert group.mask is not None and group.mask[RECTANGLE].all() and group.box is not None
    assert group.box == (1.5, 2.5, 29.5, 29.5)


def test_labelme_polygons_are_its_own_masks_but_for_the_border(tmp_path: Path) -> None:
    angles = np.arange(24) * (np.pi / 12)
    corners = [
        (25.3 + 13.7 * x, 20.1 + 9.2 * y)
        for x, y in zip(np.cos(angles), np.sin(angles), strict=True)
    ]
    (found,) = labelme(tmp_path, {"shape_type": "polygon", "points": corners})
    # labelme/utils/shape.py, shape_to_mask
    picture = PIL.Image.new("L", HW[::-1])
    PIL.ImageDraw.Draw(picture).polygon(corners, outline=1, fill=1)
    theirs = np.asarray(picture) > 0
    assert found.mask is not None
    wide = cv2.dilate(found.mask.astype(np.uint8), np.ones((3, 3)))
    narrow = cv2.erode(found.mask.astype(np.uint8), np.ones((3, 3)))
    assert not (theirs & (wide == 0)).any() and theirs[narrow > 0].all()


def save_png(path: Path, mask: npt.NDArray[np.bool_]) -> None:
    cv2.imwrite(f"{path}.png", mask.astype(np.uint8) * 255)


def save_nifti(path: Path, mask: npt.NDArray[np.bool_]) -> None:
    image = nibabel.Nifti1Image(mask.T.astype(np.uint8), np.eye(4))
    nibabel.save(image, f"{path}.nii.gz")


def save_npz(path: Path, mask: npt.NDArray[np.bool_]) -> None:
    np.savez(f"{path}.npz", masks=mask[None])


@pytest.mark.parametrize("save", [save_png, save_nifti, save_npz])
def test_a_lesion_for_each_file(
    tmp_path: Path, save: Callable[[Path, npt.NDArray[np.bool_]], None]
) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    images = [save_image(tmp_path / f"images/{name}.png") for name in ("1.2.84", "b", "b_2")]
    images.append(save_image(folder / "c.png"))  # among the masks, as in BUSI
    for name, mask in (
        *(("1.2.84", BLOB), ("1.2.84_1", RECTANGLE), ("1.2.84_2", np.zeros_like(BLOB))),
        *(("b", BLOB), ("b_2", RECTANGLE)),  # which is the mask of b_2.png
        *(("c_mask", BLOB), ("c_mask_1", RECTANGLE)),
    ):
        save(folder / name, mask)
    annotations = read_annotations(folder)
    found = [annotations.of(image) for image in images]
    assert [len(each) for each in found] == [2, 1, 1, 2]
    expected = ([BLOB, RECTANGLE], [BLOB], [RECTANGLE], [BLOB, RECTANGLE])
    for each, masks in zip(found, expected, strict=True):
        assert all(has_mask(a, b) for a, b in zip(each, masks, strict=True))
    assert found[0][1].box == BOX


def test_other_files_do_not_hide_the_format(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("3 lesions")
    (tmp_path / "settings.json").write_text("{}")
    save_png(tmp_path / "a_mask", BLOB)
    assert read_annotations(tmp_path).format == "masks"


def test_label_maps_and_stacks_hold_several_lesions(tmp_path: Path) -> None:
    labels = np.where(BLOB, 2, RECTANGLE).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "map.png"), labels)
    stack = np.stack([RECTANGLE.astype(np.uint8), labels], axis=-1).transpose(1, 0, 2)
    nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), tmp_path / "stack.nii")
    np.savez(tmp_path / "cine.npz", masks=labels[None], frames=np.array([5]))
    for kind, name, frame, count in (
        *(("masks", "map", 0, 2), ("nifti", "stack", 0, 1), ("nifti", "stack", 1, 2)),
        *(("npz", "cine", 5, 2), ("npz", "cine", 4, 0)),
    ):
        found = read_annotations(tmp_path, kind).of(tmp_path / f"{name}.jpg", frame)
        assert len(found) == count
        assert all(has_mask(a, b) for a, b in zip(found, (RECTANGLE, BLOB)[:count], strict=True))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}]}', "does not have: {1}"),
        ("a.json", '{"images": [{"id": 1}]}', "images\\[0\\].file_name is missing"),
        ("a.json", "{", "cannot be read"),
        ("a.txt", "0 0.5 0.5 x", "line 1: '0 0.5 0.5 x'"),
        ("a.txt", "0 0.5 0.5 nan 1", "line 1"),
        (
            "a.json",
            '{"shapes": [{"label": "", "points": [[1, 1]]}], "imageHeight": 5, "imageWidth": 6}',
            "6 x 5 pixels, and .*50 x 40",
        ),
        ("a.nii", "text", "no NIfTI file"),
        ("a.npz", "text", "cannot be read"),
        ("a.doc", "text", "none of the formats"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    image = save_image(tmp_path / "images/a.png")
    with pytest.raises(SamusEdgeError, match=message):
        kind = "yolo" if name.endswith(".txt") else None
        read_annotations(tmp_path / name, kind).of(image, original_hw=HW)


@pytest.mark.parametrize("save", [save_png, save_nifti, save_npz])
def test_damaged_files_are_named(
    tmp_path: Path, save: Callable[[Path, npt.NDArray[np.bool_]], None]
) -> None:
    save(tmp_path / "a", BLOB)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:60] + bytes(20) + whole[80:]):
        file.write_bytes(damaged)
        with pytest.raises(SamusEdgeError, match=re.escape(file.name)):
            read_annotations(tmp_path).of(Path("a.jpg"))


def test_what_is_not_there_or_means_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not exist"):
        read_annotations(tmp_path / "missing.json")
    for folder in ("x", "y"):
        save_image(tmp_path / folder / "a.png")
    with pytest.raises(DataError, match=r"x/a.png, y/a.png"):
        read_annotations(tmp_path).of(Path("other/a.png"))
    with pytest.raises(BadArgumentError, match="'voc'"):
        read_annotations(tmp_path, "voc")
