"""Following a lesion through small cines whose lesion moves by a known step."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.errors import BadArgumentError, ImageFileError, OutputFileError, SamusEdgeError
from samus_edge.jobs import track_cine as track_module
from samus_edge.jobs.segment_file import FileSegmentation, segment_file
from samus_edge.jobs.track_cine import CineTracking, OverlayVideo, TrackReport, track_cine
from samus_edge.runtime import BreastLocation, LesionTracker, PixelSpacing, Segmenter, open_cine
from samus_edge.runtime.cine.cine_source import CineFrame, CineSource
from tests.studies import write_study

STEP_PX = 3
BOX = (60.0, 40.0, 120.0, 100.0)
# Appearance is compared in a scaled-down patch.
PLACE_PX = 3
Job = Callable[..., CineTracking]


@pytest.fixture(scope="module")
def frames() -> list[npt.NDArray[np.uint8]]:
    """Six textured frames, 160 x 240, whose dark disc moves to the right."""
    noise = np.random.default_rng(0).integers(60, 200, (160, 240)).astype(np.float32)
    first = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.uint8)
    cv2.circle(first, (90, 70), 28, 25, -1)
    return [np.roll(first, STEP_PX * index, axis=1) for index in range(6)]


@pytest.fixture
def folder(frames: list[npt.NDArray[np.uint8]], tmp_path: Path) -> Path:
    """The frames as a folder of images."""
    path = tmp_path / "cine"
    path.mkdir()
    for index, frame in enumerate(frames):
        assert cv2.imwrite(str(path / f"{index}.png"), frame)
    return path


@pytest.fixture
def job(folder: Path, disc_bundle: Path) -> Job:
    """Makes jobs on the folder, unless they name another source."""

    def make(**changes: Any) -> CineTracking:
        values = {"source": str(folder), "box": BOX, "bundle": disc_bundle, "threads": 1, **changes}
        return CineTracking(**values)

    return make


def write_video(path: Path, frames: list[npt.NDArray[np.uint8]]) -> Path:
    """At 10 frames a second."""
    with OverlayVideo(path, 10) as video:
        for frame in frames:
            video.write(np.repeat(frame[..., None], 3, axis=2))
    return path


def test_the_box_moves_with_the_lesion(job: Job) -> None:
    counts: list[int | None] = []
    report = track_cine(job(), on_start=counts.append)
    assert counts == [6]
    assert report.counts() == {"tracking": 6, "uncertain": 0, "lost": 0, "stopped": 0}
    lefts = [frame.to_json()["box"][0] for frame in report.frames]
    expected = [lefts[0] + STEP_PX * index for index in range(6)]
    assert lefts == pytest.approx(expected, abs=PLACE_PX)


def test_the_document_has_what_that_of_one_image_has(
    job: Job, folder: Path, tmp_path: Path, disc_bundle: Path
) -> None:
    image = folder / "0.png"
    table = tmp_path / "sizes.csv"
    cine = track_cine(job(source=str(image), csv_file=table)).to_json()
    single = segment_file(
        FileSegmentation(image=image, boxes=[BOX], bundle=disc_bundle, threads=1)
    ).to_json()
    own = {"masks", "overlay_file", "presence"}
    assert set(single) - own <= set(cine)
    same = ("backend", "device", "threads", "precision", "graphs", "bundle", "versions", "notes")
    assert {name: cine[name] for name in same} == {name: single[name] for name in same}
    assert cine["image"] == single["image"] | {"frame": 0}
    assert {"read", "load", "track", "write", "total"} == set(cine["timings_ms"])
    assert (cine["csv_file"], cine["video_file"], cine["mask_file"]) == (str(table), None, None)
    (frame,) = cine["frames"]
    (mask,) = single["masks"]
    for name in ("box", "area_px", "measurements", "spacing"):
        assert frame[name] == mask[name]
    assert json.loads(json.dumps(cine, allow_nan=False)) == cine


@pytest.mark.parametrize("given", [None, PixelSpacing.square(0.5)])
def test_a_study_says_times_and_sizes_unless_they_are_given(
    job: Job, frames: list[npt.NDArray[np.uint8]], tmp_path: Path, given: PixelSpacing | None
) -> None:
    path = write_study(tmp_path / "a.dcm", frames, FrameTime="40", PixelSpacing=[0.2, 0.1])
    report = track_cine(job(source=str(path), from_frame=2, max_frames=3, spacing=given))
    documents = [frame.to_json() for frame in report.frames]
    assert [document["frame"] for document in documents] == [2, 3, 4]
    assert [document["seconds"] for document in documents] == pytest.approx([0.08, 0.12, 0.16])
    x1, y1, x2, y2 = documents[0]["box"]
    found = documents[0]["measurements"]
    row_mm, column_mm = (0.2, 0.1) if given is None else (0.5, 0.5)
    assert found["unit"] == "mm"
    assert found["width"] == pytest.approx((x2 - x1 + 1) * column_mm)
    assert found["height"] == pytest.approx((y2 - y1 + 1) * row_mm)
    assert (documents[0]["spacing"]["source"] == "given") == (given is not None)
    assert documents[0]["spacing"] == found["spacing"]


def test_a_given_spacing_that_no_scanner_or_another_file_has_is_noted(
    job: Job, frames: list[npt.NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = write_study(tmp_path / "a.dcm", frames, FrameTime="40", PixelSpacing=[0.2, 0.1])
    for given, noted in (
        (PixelSpacing(0.2, 0.1), []),  # as the file says
        (PixelSpacing.square(0.3), ["spacing_overridden"]),
        (PixelSpacing.square(30), ["spacing_implausible", "spacing_overridden"]),
    ):
        found = codes(track_cine(job(source=str(path), spacing=given)))
        assert [code for code in found if code.startswith("spacing")] == noted


def test_sizes_of_a_video_follow_the_shape_of_its_pixels(job: Job) -> None:
    video = Path(__file__).parents[1] / "assets" / "videos" / "anamorphic.mp4"
    (first, *_) = track_cine(job(source=str(video), box=(10.0, 10.0, 60.0, 50.0))).frames
    document = first.to_json()
    x1, y1, x2, y2 = document["box"]
    found = document["measurements"]
    assert (found["unit"], found["width"]) == ("px", x2 - x1 + 1)
    assert found["height"] == pytest.approx((y2 - y1 + 1) / 1.5, abs=1e-3)  # 3 wide to 2 high
    assert found["height_to_width"] == pytest.approx(found["height"] / found["width"], abs=1e-3)


def test_pixels_of_an_implausible_size_are_noted_once(
    job: Job, frames: list[npt.NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = write_study(tmp_path / "a.dcm", frames, PixelSpacing=[50, 50])
    report = track_cine(job(source=str(path)))
    assert codes(report).count("spacing_implausible") == 1
    assert report.to_json()["notes"] == [note.to_json() for note in report.notes]


def codes(report: TrackReport) -> list[str]:
    return [note.code for note in report.notes]


def test_a_video_that_ends_early_is_noted(
    job: Job, frames: list[npt.NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = write_video(tmp_path / "x.avi", frames)
    assert codes(track_cine(job(source=str(path)))) == ["quality_unknown", "spacing_unknown"]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    report = track_cine(job(source=str(path)))
    assert 0 < len(report.frames) < 6
    assert codes(report) == ["cine_truncated", "quality_unknown", "spacing_unknown"]
    assert f"{len(report.frames)} of 6 frames" in report.notes[0].text
    assert codes(track_cine(job(source=str(path), max_frames=1))) == [
        "quality_unknown",
        "spacing_unknown",
    ]


def test_what_was_found_before_a_bad_frame_is_written(
    job: Job, folder: Path, tmp_path: Path
) -> None:
    (folder / "3.png").write_bytes(b"no image")
    report = TrackReport()
    table, video, masks = (tmp_path / name for name in ("sizes.csv", "x.mp4", "masks"))
    with pytest.raises(ImageFileError, match=r"3\.png"):
        track_cine(job(csv_file=table, video_file=video, mask_file=masks), report=report)
    assert len(report.frames) == 3
    with table.open() as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    assert report.to_json()["timings_ms"]["total"] > 0
    assert not video.exists()  # half a video would pass for a whole one
    assert {path.name for path in tmp_path.iterdir()} == {"cine", "sizes.csv"}


def test_a_stop_keeps_what_there_is(job: Job, tmp_path: Path) -> None:
    def stop(frame: Any) -> None:
        if frame.frame == 2:
            raise KeyboardInterrupt

    table, video = tmp_path / "sizes.csv", tmp_path / "x.avi"
    report = track_cine(job(csv_file=table, video_file=video), on_frame=stop)
    assert report.was_interrupted and report.to_json()["was_interrupted"]
    assert len(report.frames) == len(table.read_text().splitlines()) - 1 == 3
    opened = cv2.VideoCapture(str(video))
    assert int(opened.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    opened.release()


@pytest.fixture
def study(frames: list[npt.NDArray[np.uint8]], tmp_path: Path) -> Path:
    """The frames, and one without a lesion, as a DICOM cine."""
    empty = np.full_like(frames[0], 130)
    identity = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "PatientID": "P"}
    identity["Laterality"] = "R"
    return write_study(tmp_path / "a.dcm", [*frames, empty], FrameTime="40", **identity)


def test_masks_are_written_in_every_form(job: Job, study: Path, tmp_path: Path) -> None:
    import highdicom as hd

    masks: list[npt.NDArray[np.bool_]] = []
    with Segmenter.load(job().bundle, threads=1) as segmenter:
        tracker = LesionTracker(segmenter)
        for image in open_cine(str(study)):
            found = tracker.update(image.image) if masks else tracker.start(image.image, BOX)
            masks.append(np.zeros_like(image.image, bool) if found.mask is None else found.mask)
    assert [bool(mask.any()) for mask in masks] == [True] * 6 + [False]

    folder, npz, seg, sr = (tmp_path / name for name in ("m", "m.npz", "seg.dcm", "sr.dcm"))
    place = BreastLocation("left", clock=4)
    report = track_cine(
        job(
            source=str(study),
            location=place,
            mask_file=folder,
            dicom_seg_file=seg,
            dicom_sr_file=sr,
        )
    )
    assert codes(report)[-1] == "frames_left_out"
    assert codes(report).count("side_contradiction") == 1
    assert "1 of 7 frames" in report.notes[-1].text
    listed = json.loads((folder / "frames.json").read_text())["frames"]
    assert [each["state"] for each in listed] == [frame.tracked.state for frame in report.frames]
    assert {path.name for path in folder.iterdir()} == {
        *(f"frame_{index:06d}.png" for index in range(6)),
        "frames.json",
    }
    for each, mask in zip(listed[:6], masks, strict=False):
        picture = cv2.imread(str(folder / each["file"]), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(picture, 255 * mask.astype(np.uint8))
    assert (listed[6]["file"], listed[6]["seconds"]) == (None, pytest.approx(0.24))

    # The same again takes the place of what was there; a folder of something else is left alone.
    (folder / "frame_000099.png").write_bytes(b"old")
    track_cine(job(source=str(study), mask_file=folder, from_frame=2, max_frames=2))
    assert {path.name for path in folder.iterdir()} == {
        "frame_000002.png",
        "frame_000003.png",
        "frames.json",
    }

    track_cine(job(source=str(study), mask_file=npz, spacing=PixelSpacing(0.2, 0.1)))
    with np.load(npz) as arrays:
        assert (arrays["masks"].dtype, arrays["masks"].shape) == (np.uint8, (7, 160, 240))
        np.testing.assert_array_equal(arrays["masks"], masks)
        assert arrays["frames"].tolist() == list(range(7))
        np.testing.assert_allclose(arrays["times_ms"], 40 * np.arange(7))
        assert arrays["states"].tolist() == [frame.tracked.state for frame in report.frames]
        np.testing.assert_array_equal(arrays["spacing_mm"], [[0.2, 0.1]] * 6 + [[np.nan] * 2])

    read = hd.seg.segread(seg)
    uid = read.get_source_image_uids()[0][2]
    stored = read.get_pixels_by_source_frame(uid, range(1, 7))
    np.testing.assert_array_equal(stored[..., 0], masks[:6])
    groups = hd.sr.srread(sr).content.get_planar_roi_measurement_groups()  # type: ignore[attr-defined]
    assert len({group.tracking_uid for group in groups}) == 1
    assert [group.finding_sites[0].laterality.meaning for group in groups] == ["Left"] * 6
    for group, frame in zip(groups, report.frames, strict=False):
        assert frame.mask is not None and frame.mask.measurements is not None
        area = {item.name.meaning: item.value for item in group.get_measurements()}["Area"]
        assert float(area) == pytest.approx(frame.mask.measurements.area)
    assert len(groups) == 6


def test_without_any_mask_there_are_the_other_files(
    job: Job, study: Path, tmp_path: Path, disc_bundle_copy: Path
) -> None:
    file = disc_bundle_copy / "manifest.json"
    file.write_text(file.read_text().replace('"mask_threshold": 0.0', '"mask_threshold": 1e6'))
    seg, masks, table = (tmp_path / name for name in ("seg.dcm", "masks", "sizes.csv"))
    empty = job(source=str(study), bundle=disc_bundle_copy, mask_file=masks, csv_file=table)
    with pytest.raises(BadArgumentError, match="every mask is empty"):
        track_cine(replace(empty, max_frames=1, dicom_seg_file=seg))
    assert not seg.exists()
    assert len(table.read_text().splitlines()) == 2
    assert [path.name for path in masks.iterdir()] == ["frames.json"]


def test_a_stop_before_the_first_frame_leaves_what_was_there(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    masks = tmp_path / "m.npz"
    masks.write_bytes(b"old")
    monkeypatch.setattr(track_module, "_follow_file", stop)
    with pytest.raises(KeyboardInterrupt):
        track_cine(job(mask_file=masks))
    assert masks.read_bytes() == b"old"


def test_a_folder_of_something_else_is_not_replaced(job: Job, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(SamusEdgeError, match=r"no frames\.json"):
        track_cine(job(mask_file=other))
    assert (other / "notes.txt").read_text() == "mine"
    # Nor is the one with the input, whatever it looks like.
    (folder / "frames.json").write_text("{}")
    before = sorted(folder.iterdir())
    for source in (folder, folder / "0.png"):
        with pytest.raises(BadArgumentError, match="is replaced as a whole"):
            track_cine(job(source=str(source), mask_file=folder))
    with pytest.raises(BadArgumentError, match=r"sizes\.csv is in it"):
        track_cine(job(mask_file=other, csv_file=other / "sizes.csv"))
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dicom_seg_file": Path("x.dcm")}, BadArgumentError, "refers to a DICOM image"),
        ({"dicom_sr_file": Path("x.dcm")}, BadArgumentError, "--dicom-seg"),
        ({"mask_file": Path("/nowhere/masks")}, OutputFileError, "does not exist"),
        ({"mask_file": Path("x.png")}, BadArgumentError, "folder, or into a file ending in .npz"),
        ({"box": (900.0, 1.0, 950.0, 9.0)}, BadArgumentError, "outside the image"),
        ({"from_frame": 6}, BadArgumentError, "no frame 6"),
        ({"source": "/nowhere"}, ImageFileError, "/nowhere"),
        ({"video_file": Path("/nowhere/x.mp4")}, OutputFileError, "does not exist"),
    ],
)
def test_where_nothing_is_followed_nothing_is_written(
    job: Job, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    outputs = {
        "csv_file": tmp_path / "x.csv",
        "video_file": tmp_path / "x.mp4",
        "mask_file": tmp_path / "masks",
    }
    with pytest.raises(error, match=message):
        track_cine(job(**{**outputs, **changes}))
    assert {path.name for path in tmp_path.iterdir()} == {"cine"}


class Camera(CineSource):
    """A live source of known frames, which end."""

    def __init__(self, frames: list[npt.NDArray[np.uint8]]) -> None:
        super().__init__("camera:0", "camera", None)
        self._frames = frames

    def __iter__(self) -> Iterator[CineFrame]:
        for index, frame in enumerate(self._frames):
            yield CineFrame(index, None, frame)


def test_of_a_live_source_the_newest_frames_are_followed(
    job: Job, frames: list[npt.NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_module, "open_cine", lambda source: Camera(frames))
    report = track_cine(job(source="camera"))
    numbers = [frame.frame for frame in report.frames]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 5
    assert len(numbers) + report.frames_dropped == 6
    seconds = [frame.seconds for frame in report.frames if frame.seconds is not None]
    assert seconds == sorted(seconds)
    document = report.to_json()
    assert (document["image"]["sha256"], document["frame_count"]) == (None, None)
    assert len(track_cine(job(source="camera", max_frames=1)).frames) == 1
    with pytest.raises(BadArgumentError, match="ends before frame 9"):
        track_cine(job(source="camera", from_frame=9))
