"""Results in the formats of other tools, read by other readers and by our own."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.data.annotations import read_annotations
from samus_edge.errors import BadArgumentError, OutputFileError
from samus_edge.jobs.record import mask_record
from samus_edge.jobs.result_formats import (
    DOCUMENT_FORMATS,
    FILE_FORMATS,
    ImageResult,
    open_results,
    result_bytes,
)
from samus_edge.runtime.images.mask_shapes import rle
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing

# pycocotools 2.0.11 with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HW = (48, 64)
Mask = npt.NDArray[np.bool_]


def disc(x: float, y: float, radius: float) -> Mask:
    rows, columns = np.mgrid[: HW[0], : HW[1]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


RING = disc(20, 20, 12) & ~disc(22, 18, 4)
TWO_PARTS = disc(50, 10, 5) | disc(50, 30, 7)
ACROSS = disc(30, 24, 10)  # overlaps the ring
SPACING = PixelSpacing(0.12, 0.07)  # rows, columns


def result(folder: Path, name: str, *masks: Mask) -> ImageResult:
    """As `samus-edge infer --json` has it, through its document."""
    image = folder / "images" / f"{name}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), np.full(HW, 90, np.uint8))
    records = [mask_record(mask, 0.9, None, SPACING).to_json() for mask in masks]
    document = {
        "image": {"path": str(image), "height": HW[0], "width": HW[1]},
        "masks": [
            {"frame": None, "label": "cyst", "rle": rle(mask), **record}
            for mask, record in zip(masks, records, strict=True)
        ],
    }
    (found,) = ImageResult.of_document(name, document)
    return found


def written(kind: str, folder: Path) -> tuple[Path, list[ImageResult]]:
    """Two images in a format, the masks of the second overlapping."""
    results = [result(folder, "a", RING, TWO_PARTS), result(folder, "sub/b", RING, ACROSS)]
    path = folder / ("out.json" if "coco" in kind else f"out.{kind}")
    with open_results(kind, path) as writer:
        for each in results:
            writer.add(each)
    return path, results


@pytest.mark.parametrize("kind", sorted({*DOCUMENT_FORMATS, *FILE_FORMATS} - {"csv"}))
def test_what_is_written_is_read_back_to_the_pixel(tmp_path: Path, kind: str) -> None:
    pytest.importorskip({"nifti": "nibabel", "png": "cv2"}.get(kind, "pycocotools"))
    path, results = written(kind, tmp_path)
    annotations = read_annotations(path)
    expected_kind = {"png": "masks", "coco-polygons": "coco"}.get(kind, kind)
    assert annotations.format == expected_kind
    for each in results:
        found = annotations.of(each.image)
        assert len(found) == 2
        for annotation, mask in zip(found, each.masks, strict=True):
            assert annotation.mask is not None and np.array_equal(annotation.mask, mask)
            has_classes = annotations.format in ("coco", "yolo", "labelme")
            assert annotation.label == ("cyst" if has_classes else "")


@pytest.mark.parametrize("kind", ["coco", "coco-polygons"])
def test_pycocotools_computes_the_same_areas_and_boxes(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    masks = pytest.importorskip("pycocotools.mask")
    path, results = written(kind, tmp_path)
    theirs = coco.COCO(str(path))
    capsys.readouterr()  # it prints
    annotations = theirs.loadAnns(theirs.getAnnIds())
    expected = [mask for each in results for mask in each.masks]
    for annotation, mask in zip(annotations, expected, strict=True):
        encoded = theirs.annToRLE(annotation)
        assert masks.area(encoded) == annotation["area"] == np.count_nonzero(mask)
        assert masks.toBbox(encoded).tolist() == annotation["bbox"]
        assert annotation["score"] == 0.9 and annotation["measurements"]["unit"] == "mm"
    is_polygon = [isinstance(each["segmentation"], list) for each in annotations]
    assert is_polygon == ([False, True, False, True] if kind == "coco-polygons" else [False] * 4)
    assert [each["file_name"] for each in theirs.loadImgs(theirs.getImgIds())] == [
        str(each.image) for each in results
    ]


def test_nifti_has_the_spacing_and_the_pixels_in_two_readers(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    sitk = pytest.importorskip("SimpleITK")
    path, _ = written("nifti", tmp_path)
    labels = np.where(RING, 1, np.where(TWO_PARTS, 2, 0))
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.nii.gz"))
    assert files == ["a.nii.gz", "sub/b_1.nii.gz", "sub/b_2.nii.gz"]  # b's masks overlap
    image = sitk.ReadImage(str(path / "a.nii.gz"))
    assert image.GetSpacing()[:2] == pytest.approx((0.07, 0.12))  # x, y
    assert image.GetOrigin() == (0, 0, 0) and image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert np.array_equal(sitk.GetArrayFromImage(image)[0], labels)
    loaded = nibabel.load(path / "a.nii.gz")
    assert loaded.header.get_zooms()[:2] == pytest.approx((0.07, 0.12))
    assert loaded.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(np.asarray(loaded.dataobj)[..., 0].T, labels)


def test_the_table_has_a_row_for_each_mask(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    empty = np.zeros(HW, np.bool_)
    with open_results("csv", path) as writer:
        writer.add(result(tmp_path, "=a", disc(20, 20, 10), empty))
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["image"].endswith("=a.png") and first["mask"] == "1" and first["label"] == "cyst"
    assert [int(first[key]) for key in ("x1", "y1", "x2", "y2")] == [10, 10, 30, 30]
    assert float(first["area"]) == pytest.approx(317 * 0.12 * 0.07, abs=1e-3)
    assert float(first["longest_diameter"]) == pytest.approx(21 * 0.12, rel=0.03)
    assert (float(first["row_spacing"]), first["spacing_unit"]) == (0.12, "mm")
    assert second["area_px"] == "0" and second["x1"] == second["area"] == ""


def test_labelme_finds_the_image_and_keeps_holes_as_masks(tmp_path: Path) -> None:
    path, results = written("labelme", tmp_path)
    document: dict[str, Any] = json.loads((path / "sub/b.json").read_text())
    assert (path / "sub" / document["imagePath"]).resolve() == results[1].image.resolve()
    kinds = [shape["shape_type"] for shape in document["shapes"]]
    assert kinds == ["mask", "polygon"]
    parts = json.loads((path / "a.json").read_text())["shapes"]
    assert [each["group_id"] for each in parts] == [None, 2, 2]


@pytest.mark.parametrize("kind", [*DOCUMENT_FORMATS, *FILE_FORMATS])
def test_no_image_is_no_error(tmp_path: Path, kind: str) -> None:
    with open_results(kind, tmp_path / "out"):
        pass
    with open_results(kind, tmp_path / "one", overwrite=True) as writer:
        writer.add(result(tmp_path, "a", np.zeros(HW, np.bool_)))


@pytest.mark.parametrize("kind", ["coco", "png", "yolo"])
def test_nothing_that_exists_is_replaced_unasked(tmp_path: Path, kind: str) -> None:
    path, results = written(kind, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(OutputFileError, match="exists"), open_results(kind, path) as writer:
        writer.add(results[0])
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with open_results(kind, path, overwrite=True) as writer:
        writer.add(results[1])
        if kind == "png":
            with pytest.raises(BadArgumentError, match="two images"):
                writer.add(results[1])


@pytest.mark.parametrize("kind", ["coco", "coco-polygons", "csv", "npz"])
def test_the_one_file_of_an_image_is_that_of_the_writer(tmp_path: Path, kind: str) -> None:
    each = result(tmp_path, "a", RING, ACROSS)
    path = tmp_path / "out"
    with open_results(kind, path) as writer:
        writer.add(each)
    written = (path / "a.npz" if kind == "npz" else path).read_bytes()
    assert result_bytes(kind, each) == written
    with pytest.raises(BadArgumentError, match="'png'"):
        result_bytes("png", each)


def test_after_an_error_there_is_no_document(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_results("coco", tmp_path / "a.json") as writer:
        writer.add(result(tmp_path, "a", RING))
        raise RuntimeError
    assert not (tmp_path / "a.json").exists()


def test_places_and_formats_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    for kind, path, error, message in (
        ("coco", tmp_path / "missing/a.json", OutputFileError, "does not exist"),
        ("voc", tmp_path, BadArgumentError, "'voc'"),
    ):
        with pytest.raises(error, match=message), open_results(kind, path):
            pass
