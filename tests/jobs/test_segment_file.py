"""Segmenting files: prompts become rows, results become reports and files."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from samus_edge.errors import BadArgumentError, SamusEdgeError
from samus_edge.jobs.segment_file import FileSegmentation, segment_file
from samus_edge.runtime import Segmenter
from samus_edge.runtime.images.image_io import read_image
from tests.discs import corner_proposer, disc_decoder, mean_grey_encoder, save_bundle

# A disc's edge may fall on either side of a pixel's centre.
EDGE_PX = 1.5


@pytest.fixture
def job(tmp_path: Path, disc_bundle: Path) -> FileSegmentation:
    """One box on a black image of 640 x 480 pixels."""
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((480, 640), np.uint8))
    return FileSegmentation(image=image, boxes=[(100, 50, 300, 250)], bundle=disc_bundle, threads=1)


def read_png(path: Path) -> npt.NDArray[np.uint8]:
    """A file's pixels, by OpenCV."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image.astype(np.uint8)


def test_a_mask_is_reported_with_area_and_box(job: FileSegmentation) -> None:
    report = segment_file(job)
    (mask,) = report.masks
    # The disc around (200, 150) with radii 100 and 75: see conftest.
    assert mask.area_px == pytest.approx(np.pi * 100 * 75, rel=0.01)
    assert mask.box == pytest.approx((100, 75, 300, 225), abs=EDGE_PX)
    assert mask.predicted_iou == pytest.approx(2.1)
    assert mask.prompt.box == (100, 50, 300, 250)
    assert mask.prompt.points == ()
    assert not mask.prompt.was_clipped


def test_the_document_traces_the_result(job: FileSegmentation, disc_bundle: Path) -> None:
    document = json.loads(json.dumps(segment_file(job).to_json(), allow_nan=False))
    assert set(document) == {
        *(
            "image",
            "masks",
            "presence",
            "notes",
            "timings_ms",
            "backend",
            "device",
            "threads",
            "precision",
        ),
        *("graphs", "bundle", "versions"),
        *("mask_file", "overlay_file", "dicom_seg_file", "dicom_sr_file"),
    }
    sha256 = hashlib.sha256(job.image.read_bytes()).hexdigest()
    assert document["image"] == {
        "path": str(job.image),
        "sha256": sha256,
        "width": 640,
        "height": 480,
        "frame": None,
    }
    mask_fields = {"frame", "area_px", "box", "predicted_iou", "prompt", "spacing", "measurements"}
    assert set(document["masks"][0]) == {*mask_fields, "quality"}
    timings = document["timings_ms"]
    assert set(timings) == {"load", "read", "encode", "decode", "write", "total"}
    assert all(value >= 0 for value in timings.values())
    parts = sum(value for name, value in timings.items() if name != "total")
    assert timings["total"] == pytest.approx(parts, rel=0.2, abs=20)
    assert (document["backend"], document["precision"]) == ("onnxruntime", "fp32")
    bundle = document["bundle"]
    assert (bundle["name"], bundle["path"]) == ("discs", str(disc_bundle))
    for name, recorded in bundle["graphs"].items():
        content = (disc_bundle / f"{name}.onnx").read_bytes()
        assert hashlib.sha256(content).hexdigest() == recorded
    assert set(document["versions"]) == {"samus_edge", "python", "numpy", "opencv", "onnxruntime"}


def test_points_alone_are_one_prompt(job: FileSegmentation) -> None:
    points = [(150, 150, 1), (250, 150, 1)]
    (mask,) = segment_file(dataclasses.replace(job, boxes=(), points=points)).masks
    assert mask.prompt.box is None
    assert mask.prompt.points == ((150, 150, 1), (250, 150, 1))
    assert mask.predicted_iou == pytest.approx(3.1)  # two points and SAM's one padding point
    (first,) = segment_file(dataclasses.replace(job, boxes=(), points=points[:1])).masks
    assert first.box == pytest.approx((50, 75, 250, 225), abs=EDGE_PX)


def test_points_correct_the_mask_of_one_box_in_turn(
    job: FileSegmentation, disc_bundle: Path
) -> None:
    points = [(500, 300, 0), (40, 40, 1)]
    (mask,) = segment_file(dataclasses.replace(job, points=points)).masks
    with Segmenter.load(disc_bundle, threads=1) as segmenter:
        expected = segmenter.segment(
            read_image(job.image),
            boxes=job.boxes,
            point_coords=[[[500, 300], [40, 40]]],
            point_labels=[[0, 1]],
        ).masks[0, 0]
    assert mask.area_px == int(expected.sum())
    assert expected[40, 40]
    assert [point[:2] for point in mask.prompt.points] == [(500, 300), (40, 40)]


def test_with_several_boxes_a_point_refines_the_box_that_contains_it(
    job: FileSegmentation,
) -> None:
    boxes = [(100, 50, 300, 250), (400, 200, 600, 400)]
    alone = segment_file(dataclasses.replace(job, boxes=boxes))
    both = segment_file(dataclasses.replace(job, boxes=boxes, points=[(590, 390, 1)]))
    assert both.masks[0] == alone.masks[0]
    assert both.masks[1].box != alone.masks[1].box
    assert both.masks[0].prompt.points == ()
    assert both.masks[1].prompt.points == ((590, 390, 1),)


def test_a_box_that_sticks_out_is_clipped_and_said_to_be(job: FileSegmentation) -> None:
    report = segment_file(dataclasses.replace(job, boxes=[(-50, 20, 700, 100)]))
    assert report.masks[0].prompt.box == (-0.5, 20, 639.5, 100)
    assert report.masks[0].prompt.was_clipped
    assert any("was cut to the image: -0.5,20,639.5,100" in line for line in report.lines())


def test_an_empty_mask_has_no_box(job: FileSegmentation, disc_bundle_copy: Path) -> None:
    file = disc_bundle_copy / "manifest.json"
    file.write_text(file.read_text().replace('"mask_threshold": 0.0', '"mask_threshold": 1e6'))
    report = segment_file(dataclasses.replace(job, bundle=disc_bundle_copy))
    assert (report.masks[0].area_px, report.masks[0].box) == (0, None)
    document: Any = report.to_json()
    assert document["masks"][0]["box"] is None
    assert any("mask 1: empty" in line for line in report.lines())


def test_one_mask_is_written_in_black_and_white(job: FileSegmentation) -> None:
    mask_file = job.image.with_name("mask.png")
    report = segment_file(dataclasses.replace(job, mask_file=mask_file))
    mask = read_png(mask_file)
    assert mask.shape == (480, 640)
    assert set(np.unique(mask)) == {0, 255}
    assert np.count_nonzero(mask) == report.masks[0].area_px
    assert report.job.mask_file == mask_file


def test_several_masks_are_written_as_labels(job: FileSegmentation) -> None:
    mask_file = job.image.with_name("mask.png")
    boxes = [(100, 50, 300, 250), (400, 300, 600, 450)]
    report = segment_file(dataclasses.replace(job, boxes=boxes, mask_file=mask_file))
    mask = read_png(mask_file)
    assert set(np.unique(mask)) == {0, 1, 2}
    assert np.count_nonzero(mask == 2) == report.masks[1].area_px


def test_an_overlay_is_written(job: FileSegmentation) -> None:
    overlay_file = job.image.with_name("overlay.jpg")
    segment_file(dataclasses.replace(job, overlay_file=overlay_file))
    overlay = read_png(overlay_file)
    assert overlay.shape[0] > 2 * 480
    assert overlay.shape[1:] == (2 * 640, 3)


def test_the_lines_are_for_people(job: FileSegmentation) -> None:
    mask_file = job.image.with_name("mask.png")
    lines = segment_file(dataclasses.replace(job, mask_file=mask_file)).lines()
    assert lines[0] == f"{job.image}: 640 x 480 pixels"
    assert "mask 1: 235" in lines[1] and "predicted IoU 2.10" in lines[1]
    assert lines[2].startswith("  warning: ")  # the image is black
    assert lines[3].startswith("  info: How good masks are is not known")
    assert lines[4].startswith("  info: Sizes are in pixels")
    assert lines[5] == f"  mask file: {mask_file} (0 and 255)"
    assert lines[6].startswith("  discs (fp32) on onnxruntime, 1 threads: ")
    assert "Not a medical device" in lines[-1]


def test_what_looks_wrong_is_noted_once(job: FileSegmentation) -> None:
    boxes = [(100, 50, 300, 250), (400, 300, 600, 450)]
    report = segment_file(dataclasses.replace(job, boxes=boxes))
    codes = [note.code for note in report.notes]
    assert codes.count("blank_frame") == 1  # the image is black
    assert [note["code"] for note in report.to_json()["notes"]] == codes


def test_a_strict_job_fails_at_a_warning_and_writes_nothing(
    job: FileSegmentation, tmp_path: Path
) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((480, 640), 9, np.uint8))
    mask_file = tmp_path / "mask.png"
    lenient = dataclasses.replace(job, image=blank, mask_file=mask_file)
    codes = [note.code for note in segment_file(lenient).notes]
    assert codes[0] == "blank_frame" and "spacing_unknown" in codes
    mask_file.unlink()
    with pytest.raises(SamusEdgeError, match="strict was asked for: The frame has no contrast"):
        segment_file(dataclasses.replace(lenient, is_strict=True))
    assert not mask_file.exists()


@pytest.fixture
def pages(job: FileSegmentation, tmp_path: Path) -> FileSegmentation:
    """Two boxes in a file of four pages, two of which are segmented."""
    rng = np.random.default_rng(3)
    first, *others = (Image.fromarray(rng.integers(0, 256, (480, 640), np.uint8)) for _ in range(4))
    path = tmp_path / "pages.tif"
    first.save(path, save_all=True, append_images=others)
    boxes = [(100, 50, 300, 250), (200, 150, 500, 400)]
    return dataclasses.replace(job, image=path, boxes=boxes, frames=(3, 1))


def test_several_frames_are_what_each_is_alone(pages: FileSegmentation, tmp_path: Path) -> None:
    npz, folder = tmp_path / "masks.npz", tmp_path / "masks"
    report = segment_file(dataclasses.replace(pages, mask_file=npz))
    segment_file(dataclasses.replace(pages, mask_file=folder))
    document = report.to_json()
    assert document["image"]["frame"] is None
    with np.load(npz) as arrays:
        assert (arrays["frames"].tolist(), arrays["states"].tolist()) == ([3, 1], ["prompted"] * 2)
        assert np.isnan(arrays["times_ms"]).all() and np.isnan(arrays["spacing_mm"]).all()
        labels = arrays["masks"]
    for index, frame in enumerate((3, 1)):
        alone = dataclasses.replace(pages, frames=[frame], mask_file=tmp_path / f"{frame}.png")
        expected = segment_file(alone).to_json()
        assert document["masks"][2 * index : 2 * index + 2] == expected["masks"]
        assert [mask["frame"] for mask in expected["masks"]] == [frame] * 2
        picture = read_png(tmp_path / f"{frame}.png")
        np.testing.assert_array_equal(labels[index], picture)
        np.testing.assert_array_equal(read_png(folder / f"frame_{frame:06d}.png"), picture)
    assert [line.split(":")[0] for line in report.lines()[1:5]] == [
        f"  frame {frame}, mask {mask}" for frame in (3, 1) for mask in (1, 2)
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"frames": (1, 1)}, BadArgumentError, r"different, and at least one, got \[1, 1\]"),
        ({"frames": (1, 4)}, BadArgumentError, "no frame 4"),
        ({"overlay_file": Path("o.png")}, BadArgumentError, "one frame, got 2"),
        ({"mask_file": Path("m.png")}, BadArgumentError, "folder, or into a file ending in .npz"),
    ],
)
def test_what_several_frames_cannot_give_is_refused(
    pages: FileSegmentation, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        segment_file(dataclasses.replace(pages, **changes))


def test_alternatives_come_best_first_and_probabilities_are_those_of_the_masks(
    job: FileSegmentation,
) -> None:
    """The alternatives are discs of 20, 30 and 60 pixels of the model's frame; scores grow."""
    files: dict[str, Any] = {"mask_file": job.image.with_name("m.png")}
    files["probability_file"] = job.image.with_name("p.npz")
    report = segment_file(dataclasses.replace(job, has_alternatives=True, **files))
    document = report.to_json()
    assert [mask["alternative"] for mask in document["masks"]] == [0, 1, 2]
    scores = [mask["predicted_iou"] for mask in document["masks"]]
    assert scores == sorted(scores, reverse=True)
    for mask, radius in zip(report.masks, (60, 30, 20), strict=True):
        area = np.pi * (radius * 640 / 256) * (radius * 480 / 256)
        edge = 2 * np.pi * radius * 640 / 256 * EDGE_PX
        assert abs(mask.area_px - area) < edge
    with np.load(files["probability_file"]) as arrays:
        probabilities = arrays["probabilities"]
    assert probabilities.shape == (1, 3, 480, 640)
    areas = np.count_nonzero(probabilities > 0.5, axis=(2, 3))[0].tolist()
    assert areas == [mask.area_px for mask in report.masks]
    assert np.array_equal(read_png(files["mask_file"]) > 0, probabilities[0, 0] > 0.5)
    assert "prompt 1, mask 3" in report.lines()[3]


def test_a_mask_is_refined(job: FileSegmentation) -> None:
    """The decoder adds what it is given to its logits: 12 inside the mask, -12 outside."""
    plain = segment_file(job).masks[0]
    given = np.zeros((480, 640), np.bool_)
    given[:, :320] = True
    refined = segment_file(dataclasses.replace(job, masks=[given])).masks[0]
    middle, radius = 200, 40 * 640 / 256
    assert plain.box is not None and refined.box is not None
    assert abs(plain.box[2] - (middle + radius)) < EDGE_PX
    assert abs(refined.box[0] - (middle - radius - 12 * 640 / 256)) < EDGE_PX + 1
    with pytest.raises(BadArgumentError, match=r"\(480, 600\)"):
        segment_file(dataclasses.replace(job, masks=[given[:, :600]]))


@pytest.mark.parametrize(("presence", "count"), [(0.9, 2), (0.3, 0)])
def test_what_is_proposed_is_a_result_like_others(
    tmp_path: Path, presence: float, count: int
) -> None:
    graphs = [mean_grey_encoder(), disc_decoder(), corner_proposer(presence)]
    bundle = save_bundle(tmp_path / "bundle", graphs)
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.full((256, 256), 51, np.uint8))
    job = FileSegmentation(image=image, max_lesions=3, bundle=bundle, mask_file=tmp_path / "m.png")
    document = segment_file(job).to_json()
    assert [mask["prompt"]["points"] for mask in document["masks"]] == [
        [[64.0, 64.0, 1]],
        [[192.0, 192.0, 1]],
    ][:count]
    scores = [mask["prompt"]["proposal_score"] for mask in document["masks"]]
    assert scores == pytest.approx([0.9, 0.72][:count])
    assert document["presence"] == pytest.approx(presence)
    codes = {note["code"] for note in document["notes"]}
    assert ("proposed" in codes, "no_proposal" in codes) == (count > 0, count == 0)
    labels = read_png(tmp_path / "m.png")
    assert set(np.unique(labels)) == set(range(count + 1))
    with pytest.raises(BadArgumentError, match="without prompts"):
        segment_file(dataclasses.replace(job, boxes=[(1, 1, 9, 9)]))
