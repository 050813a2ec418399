"""Frames from files."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from samus_edge.benchmarking.synthetic_cine import TrueFrame
from samus_edge.errors import BadArgumentError, ImageFileError
from samus_edge.jobs.track_cine import OverlayVideo
from samus_edge.runtime import PixelSpacing
from samus_edge.runtime.cine import cine_source
from samus_edge.runtime.cine.cine_source import open_cine, open_frames

VIDEOS = Path(__file__).parents[2] / "assets" / "videos"
LOSSLESS = (cv2.IMWRITE_WEBP_QUALITY, 101)


def write_video(path: Path, frames: list[TrueFrame]) -> None:
    """At 10 frames a second."""
    with OverlayVideo(path, 10.0) as video:
        for frame in frames:
            video.write(np.repeat(frame.image[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_videos_are_written_and_read(tmp_path: Path, moving: list[TrueFrame], suffix: str) -> None:
    path = tmp_path / f"cine{suffix}"
    write_video(path, moving[:5])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # nothing beside it
    source = open_cine(str(path))
    assert (source.is_live, source.frame_count) == (False, 5)
    assert source.frames_per_second == pytest.approx(10)
    frames = list(source)
    source.close()
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    for frame, true in zip(frames, moving, strict=False):
        height, width = true.image.shape
        error = np.abs(frame.image[:height, :width].astype(int) - true.image)
        assert error.mean() < 12  # speckle is hard to compress


def test_nothing_is_left_of_a_video_that_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), OverlayVideo(tmp_path / "x.mp4", 10) as video:
        video.write(np.zeros((20, 20, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="must end in"):
        OverlayVideo(tmp_path / "x.gif", 10)


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number, suffix in ((10, "png"), (9, "WebP"), (1, "tif")):
        picture = np.full((8, 9), number, np.uint8)
        cv2.imwrite(str(tmp_path / f"frame{number}.{suffix}"), picture, LOSSLESS)
    (tmp_path / "notes.txt").write_text("no image")
    source = open_cine(str(tmp_path))
    assert source.frame_count == 3
    assert [int(frame.image[0, 0]) for frame in source] == [1, 9, 10]
    cv2.imwrite(str(tmp_path / "frame11.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(ImageFileError, match="frame 3 is 4 x 4, the first is 9 x 8"):
        list(open_cine(str(tmp_path)))


@pytest.mark.parametrize("is_min_white", [False, True])
def test_a_folder_of_16_bit_frames_has_one_scale(tmp_path: Path, is_min_white: bool) -> None:
    samples = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60  # 12 bits
    for index, divisor in enumerate((1, 20, 2)):  # the second alone would pass for 8 bits
        tifffile.imwrite(
            tmp_path / f"{index}.tif",
            samples // divisor,
            photometric="miniswhite" if is_min_white else "minisblack",
        )
    for frame, divisor in zip(open_cine(str(tmp_path)), (1, 20, 2), strict=True):
        expected = np.rint(samples // divisor * (255 / 4095))
        expected = 255 - expected if is_min_white else expected
        np.testing.assert_allclose(frame.image, expected, atol=1)


def test_times_of_a_video_are_the_container_s(tmp_path: Path, moving: list[TrueFrame]) -> None:
    path = tmp_path / "cine.mkv"
    height, width = moving[0].image.shape
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (width, height))
    for frame in moving[:5]:
        writer.write(np.repeat(frame.image[..., None], 3, axis=2))
    writer.release()
    # Matroska's blocks: track, time in ms (16 bits, big endian), flags, here before a JPEG image.
    # Each is in a cluster of its own, at 0, 100, 200 ms and so on, to which the block adds.
    times_ms = iter((0, 0, 50, 400, 500))
    content, count = re.subn(
        rb"\x81..(.\xff\xd8\xff)",
        lambda block: b"\x81" + next(times_ms).to_bytes(2, "big") + block[1],
        path.read_bytes(),
        flags=re.DOTALL,
    )
    assert count == 5
    path.write_bytes(content)
    for frames in (list(open_cine(str(path))), list(open_frames(path, max_video_frames=9))):
        assert [frame.seconds for frame in frames] == pytest.approx([0, 0.1, 0.25, 0.7, 0.9])


UNEVEN = [*(0.1 * step for step in range(11)), 1.2, 1.5, 1.7, 2.0, 2.2, 2.5, 2.7, 3.0, 3.2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uneven.mkv", UNEVEN),
        ("edited.mp4", [second - 0.6 for second in UNEVEN[6:]]),  # the first six are edited out
        ("delayed.mp4", UNEVEN),  # from half a second on
    ],
)
def test_times_follow_edit_lists_and_uneven_rates(name: str, expected: list[float]) -> None:
    source = open_cine(str(VIDEOS / name))
    found = [frame.seconds for frame in source]
    assert found == pytest.approx(expected, abs=1e-3)
    # A frame that is edited out is not missing.
    assert [note.code for note in source.notes] == []
    shown = ffprobe(VIDEOS / name, "frame=best_effort_timestamp_time")
    times = [float(line.strip(",")) for line in shown]
    assert found == pytest.approx([time - times[0] for time in times], abs=1e-3)


@pytest.mark.parametrize(("name", "row"), [("anamorphic", 2 / 3), ("anamorphic_turned", 3 / 2)])
@pytest.mark.parametrize("is_kept", [False, True])
def test_pixels_of_a_video_need_not_be_square(name: str, row: float, is_kept: bool) -> None:
    path = VIDEOS / f"{name}.mp4"
    source = open_frames(path, max_video_frames=9) if is_kept else open_cine(str(path))
    found = source.spacing_in((1, 1, 9, 9))
    assert found == PixelSpacing(row, 1.0, "sample aspect ratio", "px")
    assert [note.code for note in source.notes] == ["pixels_not_square"]
    first = next(iter(source)).image
    assert first.shape == ((64, 96) if name == "anamorphic" else (96, 64))  # as they are stored
    assert ffprobe(path, "stream=sample_aspect_ratio")[0].startswith("3:2")


def ffprobe(path: Path, entries: str) -> list[str]:
    """What it says of a video; the rest of a test skips where it is not installed."""
    tool = shutil.which("ffprobe")
    if tool is None:
        pytest.skip("ffprobe, of the package ffmpeg, is not there; the rest was checked")
    command = [tool, "-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"]
    command += ["-show_entries", entries, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    ("name", "stated"), [("uneven.mkv", ""), ("delayed.mp4", " of 20"), ("cine.avi", " of 20")]
)
def test_a_video_that_was_cut_off_is_noted(tmp_path: Path, name: str, stated: str) -> None:
    path = tmp_path / name
    if name == "cine.avi":
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
        for level in range(20):
            writer.write(np.full((64, 96, 3), level, np.uint8))
        writer.release()
    else:
        shutil.copy(VIDEOS / name, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    source = open_cine(str(path))
    frames = list(source)
    assert 0 < len(frames) < 20
    (note,) = source.notes
    assert (note.code, note.level) == ("cine_truncated", "warning")
    assert f"truncated: {len(frames)}{stated} frames could be read" in note.text


def test_one_image_is_a_cine_of_one_frame_read_as_images_are(tmp_path: Path) -> None:
    path = tmp_path / "deep_001.png"
    cv2.imwrite(str(path), np.array([[0, 1023], [512, 1023]], np.uint16))  # of 10 bits
    cv2.imwrite(str(tmp_path / "deep_002.png"), np.zeros((2, 2), np.uint16))
    source = open_cine(str(path))
    assert (source.kind, source.frame_count, source.is_live) == ("image", 1, False)
    (only,) = source
    np.testing.assert_array_equal(only.image, [[0, 255], [128, 255]])


def test_a_study_is_read_with_its_times() -> None:
    from pydicom.data import get_testdata_file

    source = open_cine(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    assert source.frame_count == 30
    assert source.frames_per_second == pytest.approx(30, rel=0.01)
    frames = list(source)
    assert len(frames) == 30
    assert frames[3].seconds == pytest.approx(0.1, abs=1e-3)


def test_a_video_in_memory_has_a_limit(
    tmp_path: Path, moving: list[TrueFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.avi"
    write_video(path, moving[:5])
    content = path.read_bytes()
    for source in (path, content):
        frames = open_frames(source, "x", max_video_frames=5)
        assert (frames.kind, len(frames)) == ("video", 5)
        assert [frame.seconds for frame in frames.part(3, 9)] == pytest.approx([0.3, 0.4])
    with pytest.raises(BadArgumentError, match="no frame 5"):
        frames.read(5)
    with pytest.raises(ImageFileError, match="more than 4 frames"):
        open_frames(content, "x", max_video_frames=4)
    monkeypatch.setattr(cine_source, "MAX_VIDEO_BYTES", 2 * frames.read(0).nbytes)
    with pytest.raises(ImageFileError, match="MB of them"):
        open_frames(content, "x", max_video_frames=5)


def test_a_study_whose_times_are_damaged_is_refused(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    content = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False))).read_bytes()
    frame_time = b"\x18\x00\x63\x10"
    assert content.count(frame_time + b"DS") == 1
    path = tmp_path / "x.dcm"
    path.write_bytes(content.replace(frame_time + b"DS", frame_time + b"D6"))
    with pytest.raises(ImageFileError, match="is damaged"):
        open_cine(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is neither a file nor a folder"),
        (b"not a video", "is not a video"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_cine_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "cine.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageFileError, match=message):
        open_cine(str(path))


def test_a_path_that_is_no_text_is_refused_before_opencv_crashes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.avi")
    try:
        path.write_bytes(b"RIFF")
    except OSError:
        pytest.skip("this file system takes only names that are text")
    with pytest.raises(ImageFileError, match="not UTF-8"):
        open_cine(str(path))
    with pytest.raises(BadArgumentError, match="not UTF-8"):
        OverlayVideo(path, 10)


def test_an_empty_folder_and_a_missing_camera_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="holds no images"):
        open_cine(str(tmp_path))
    with pytest.raises(ImageFileError, match="camera:99 cannot be opened"):
        open_cine("camera:99")


@pytest.mark.parametrize("form", ["path", "bytes"])
def test_a_short_video_is_kept_and_read_in_any_order(
    tmp_path: Path, moving: list[TrueFrame], form: str
) -> None:
    path = tmp_path / "cine.mp4"
    write_video(path, moving[:5])
    source = path if form == "path" else path.read_bytes()
    video = open_frames(source, "cine.mp4", max_video_frames=5)
    assert (video.kind, len(video)) == ("video", 5)
    assert video.memory_bytes == 5 * video.original_hw[0] * video.original_hw[1]
    assert [frame.index for frame in video.part(3, 9)] == [3, 4]
    np.testing.assert_array_equal(video.read(1), list(video)[1].image)
    with pytest.raises(ValueError, match="frames 0 to 4 and no frame 5"):
        video.read(5)
    with pytest.raises(ImageFileError, match="more than 4 frames"):
        open_frames(source, "cine.mp4", max_video_frames=4)


def test_an_image_has_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"image\.png is one image and has no frame 1"):
        open_frames(path).read(1)


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_frames_of_an_animation_are_frames(tmp_path: Path, suffix: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
    first, *others = (Image.fromarray(frame) for frame in frames)
    path = tmp_path / f"x.{suffix}"
    first.save(path, save_all=True, append_images=others, duration=100, lossless=True)
    if suffix == "gif":
        with pytest.raises(ImageFileError, match=r"GIF, not an image.*samus-edge track"):
            open_frames(path)
        kept = open_frames(path, max_video_frames=9)
    else:
        kept = open_frames(path)
        assert [note.code for note in kept.notes] == ["several_pages"]
        np.testing.assert_array_equal(kept.read(2), frames[2])
    for source in (kept, open_cine(str(path))):
        np.testing.assert_array_equal([frame.image for frame in source], frames)


def test_pages_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    for size in ((20, 30), (10, 15)):
        tifffile.imwrite(path, np.zeros(size, np.uint8), append=path.exists())
    with pytest.raises(ImageFileError, match="frame 1 is 15 x 10, the first is 30 x 20"):
        open_frames(path).read(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pages_of_a_tiff_are_frames(tmp_path: Path, dtype: type) -> None:
    pages: npt.NDArray[Any] = np.random.default_rng(0).integers(0, 250, (3, 20, 30)).astype(dtype)
    if dtype is np.uint16:  # of 12 bits, of which the first page uses 8
        pages[1:] *= 16
    scale = 255 / 4095 if dtype is np.uint16 else 1
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, pages, photometric="minisblack")
    for source in (open_frames(path), open_frames(path.read_bytes(), "pages.tif")):
        assert (len(source), source.original_hw) == (3, (20, 30))
        assert [note.code for note in source.notes] == ["several_pages"]
        for index in (2, 0, 1):
            np.testing.assert_allclose(source.read(index), pages[index] * scale, atol=0.51)
        with pytest.raises(BadArgumentError, match="frames 0 to 2 and no frame 3"):
            source.read(3)
    images = [frame.image for frame in open_cine(str(path))]
    np.testing.assert_allclose(images, pages * scale, atol=0.51)


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".webp", {"lossless": True})])
def test_frames_of_an_animation_have_its_times(
    tmp_path: Path, suffix: str, options: dict[str, Any]
) -> None:
    frames = [Image.fromarray(np.full((20, 30), value, np.uint8)) for value in (10, 80, 200)]
    path = tmp_path / f"cine{suffix}"
    durations = [40, 200, 40]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, **options)
    assert [frame.seconds for frame in open_cine(str(path))] == pytest.approx([0, 0.04, 0.24])
