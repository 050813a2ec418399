"""Frames, times and spacing from DICOM files."""

import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from samus_edge.errors import ImageFileError
from samus_edge.runtime.cine.cine_source import open_frames
from samus_edge.runtime.dicom.dicom_frames import DicomFrames, is_dicom_file

Make = Callable[..., Path]
Cine = npt.NDArray[np.uint8]


def pydicoms(name: str) -> Path:
    """A file that comes with pydicom."""
    found = get_testdata_file(name, download=False)
    assert found is not None
    return Path(str(found))


def test_grey_frames_are_those_that_were_written(make_study: Make, cine: Cine) -> None:
    study = DicomFrames.open(make_study(cine))
    assert (len(study), study.original_hw) == (3, (40, 60))
    for index in range(3):
        np.testing.assert_array_equal(study.read(index), cine[index])


def test_monochrome1_is_inverted(make_study: Make, cine: Cine) -> None:
    study = DicomFrames.open(make_study(cine, photometric="MONOCHROME1"))
    np.testing.assert_array_equal(study.read(1), 255 - cine[1])


def test_twelve_bits_are_scaled_from_their_full_range(make_study: Make) -> None:
    values = np.linspace(0, 4095, 2400).astype(np.uint16).reshape(1, 40, 60)
    study = DicomFrames.open(make_study(values, BitsStored=12, HighBit=11))
    expected = np.rint(values[0] / 4095 * 255)
    np.testing.assert_array_equal(study.read(0), expected)


def test_the_first_window_is_applied(make_study: Make) -> None:
    values = np.arange(2400, dtype=np.uint16).reshape(1, 40, 60)
    study = DicomFrames.open(
        make_study(values, BitsStored=12, HighBit=11, WindowCenter=[500, 9], WindowWidth=[200, 3])
    )
    frame = study.read(0)
    # PS3.3 C.11.2.1.2.1: black up to 400, white from 599 on, linear between
    assert (frame.ravel()[:400] == 0).all()
    assert (frame.ravel()[600:] == 255).all()
    assert frame.ravel()[500] == pytest.approx(128, abs=2)


def test_rescaled_signed_values(make_study: Make) -> None:
    values = np.linspace(-128, 127, 2400).astype(np.int8).reshape(1, 40, 60)
    study = DicomFrames.open(make_study(values, RescaleSlope=2.0, RescaleIntercept=10.0))
    np.testing.assert_array_equal(study.read(0), values[0].astype(np.int16) + 128)


@pytest.mark.parametrize("planar", [0, 1])
def test_colour_becomes_grey_as_in_image_files(make_study: Make, planar: int) -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (2, 40, 60, 3), np.uint8)
    path = make_study(rgb, photometric="RGB")
    if planar:
        dataset = dcmread(path)
        dataset.PlanarConfiguration = 1
        dataset.PixelData = np.ascontiguousarray(rgb.transpose(0, 3, 1, 2)).tobytes()
        dataset.save_as(path)
    expected = cv2.cvtColor(rgb[1], cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(DicomFrames.open(path).read(1), expected)


def test_ybr_is_the_brightness_that_was_stored(make_study: Make) -> None:
    ybr = np.full((1, 40, 60, 3), 128, np.uint8)
    ybr[..., 0] = np.arange(2400).reshape(40, 60) % 256
    study = DicomFrames.open(make_study(ybr, photometric="YBR_FULL"))
    np.testing.assert_allclose(study.read(0), ybr[0, ..., 0], atol=1)


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_lossless_transfer_syntaxes(make_study: Make, cine: Cine, syntax: str) -> None:
    path = make_study(cine)
    dataset = dcmread(path)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    else:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(path)
    study = DicomFrames.open(path)
    for index in range(3):
        np.testing.assert_array_equal(study.read(index), cine[index])


@pytest.mark.parametrize(
    ("name", "frames", "hw"),
    [
        ("examples_ybr_color.dcm", 30, (240, 320)),  # ultrasound cine, JPEG baseline, YBR_FULL_422
        ("examples_rgb_color.dcm", 1, (240, 320)),  # ultrasound, RGB
        ("examples_palette.dcm", 1, (350, 800)),  # ultrasound, palette
        ("examples_jpeg2k.dcm", 1, (480, 640)),  # ultrasound, JPEG 2000, YBR_RCT
        ("SC_ybr_full_422_uncompressed.dcm", 1, (100, 100)),
        ("SC_rgb_gdcm_KY.dcm", 1, (100, 100)),  # JPEG 2000, lossy
        ("JPEGLSNearLossless_08.dcm", 1, (45, 10)),
        ("MR_small_jpeg_ls_lossless.dcm", 1, (64, 64)),
        ("SC_rgb_rle_2frame.dcm", 2, (100, 100)),
        ("ExplVR_BigEnd.dcm", 1, (60, 80)),
        ("image_dfl.dcm", 1, (512, 512)),
    ],
)
def test_real_files_are_read(name: str, frames: int, hw: tuple[int, int]) -> None:
    study = DicomFrames.open(pydicoms(name))
    assert (len(study), study.original_hw) == (frames, hw)
    last = study.read(frames - 1)
    assert last.dtype == np.uint8
    assert last.shape == hw
    assert last.std() > 5


def test_colour_files_agree_with_pydicoms_own_rgb() -> None:
    path = pydicoms("examples_rgb_color.dcm")
    expected = cv2.cvtColor(dcmread(path).pixel_array, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(DicomFrames.open(path).read(0), expected)


def test_a_grey_palette_gives_its_grey() -> None:
    path = pydicoms("examples_palette.dcm")
    frame, indices = DicomFrames.open(path).read(0), dcmread(path).pixel_array
    dataset = dcmread(path)
    tables = [
        np.frombuffer(getattr(dataset, f"{colour}PaletteColorLookupTableData"), "<u2")
        for colour in ("Red", "Green", "Blue")
    ]
    rgb = np.stack([table[indices] >> 8 for table in tables], axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(frame, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))


@pytest.mark.parametrize(
    ("elements", "seconds"),
    [
        ({"FrameTime": "40"}, (0, 0.04, 0.08)),
        ({"FrameTimeVector": [0, 30, 50]}, (0, 0.03, 0.08)),
        ({"FrameTimeVector": [0, 30, 50], "FrameTime": "40"}, (0, 0.03, 0.08)),
        (
            {
                "FrameTimeVector": [0, 30, 50],
                "FrameTime": "40",
                "FrameIncrementPointer": 0x00181063,
            },
            (0, 0.04, 0.08),
        ),
        (
            {
                "FrameTimeVector": [0, 30, 50],
                "FrameTime": "40",
                "FrameIncrementPointer": 0x00181065,
            },
            (0, 0.03, 0.08),
        ),
        ({"FrameTimeVector": [9, 30, 50, 7]}, (0, 0.03, 0.08)),  # from the first one's time
        ({"FrameTimeVector": [0, 30], "FrameTime": "40"}, (0, 0.04, 0.08)),  # not of all frames
        ({"CineRate": "20"}, (0, 0.05, 0.1)),
        ({"RecommendedDisplayFrameRate": "10"}, (0, 0.1, 0.2)),
        ({"FrameTime": "0"}, ()),
        ({}, ()),
    ],
)
def test_times_of_frames(
    make_study: Make, cine: Cine, elements: dict[str, Any], seconds: tuple[float, ...]
) -> None:
    assert DicomFrames.open(make_study(cine, **elements)).frame_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Rows": 0}, "0 frames|0 pixels|60 x 0"),
        ({"Columns": 65535, "Rows": 65535}, "65535 x 65535"),
        ({"NumberOfFrames": "-1"}, "-1 frames"),
        ({"PhotometricInterpretation": "CMYK"}, "photometric interpretation"),
        ({"Rows": 50}, "2 frames"),  # fewer pixels than that: the third is not whole
        ({"Rows": 500}, "no complete frame"),
        ({"BitsAllocated": 12}, "12 bits"),
    ],
)
def test_impossible_images_are_refused(
    make_study: Make, cine: Cine, elements: dict[str, Any], message: str
) -> None:
    path = make_study(cine, **elements)
    with pytest.raises(ImageFileError, match=message) as caught:
        DicomFrames.open(path).read(2)
    assert "Secret" not in str(caught.value)


def test_a_frame_that_is_not_there(make_study: Make, cine: Cine) -> None:
    study = DicomFrames.open(make_study(cine))
    for index in (-1, 3):
        with pytest.raises(ImageFileError, match="has 3 frames, from 0 to 2"):
            study.read(index)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DICOMDIR", "without an image"),
        ("rtplan.dcm", "without an image"),
        ("test-SR.dcm", "without an image"),
        ("no_meta.dcm", "not a DICOM file"),
        ("SC_rgb_jpeg_gdcm.dcm", "Install one: pip install pylibjpeg pylibjpeg-libjpeg"),
        ("JPGExtended.dcm", "Install one: pip install pylibjpeg pylibjpeg-libjpeg"),  # 12 bits
    ],
)
def test_files_without_an_image_say_so(name: str, message: str) -> None:
    with pytest.raises(ImageFileError, match=message):
        DicomFrames.open(pydicoms(name)).read(0)


def codes(study: DicomFrames) -> list[str]:
    return [note.code for note in study.notes]


@pytest.mark.parametrize("syntax", ["native", "native 422", "rle", "jpeg", "jpeg without a table"])
def test_the_whole_frames_of_a_cine_that_was_cut_off_are_read(
    make_study: Make, tmp_path: Path, syntax: str
) -> None:
    ramp = np.add.outer(np.arange(40) * 3, np.arange(60) * 2)
    frames = np.stack([ramp, 250 - ramp, ramp // 2]).astype(np.uint8)
    if "422" in syntax:  # two brightnesses, then two colours, of every pair
        stored = np.full((3, 40, 30, 4), 128, np.uint8)
        stored[..., 0], stored[..., 1] = frames[..., ::2], frames[..., 1::2]
        dataset = dcmread(make_study(np.stack([frames] * 3, -1), photometric="YBR_FULL_422"))
        dataset.PixelData = stored.tobytes()
    else:
        dataset = dcmread(make_study(frames))
    if syntax == "rle":
        dataset.compress(RLELossless)
    elif "jpeg" in syntax:
        jpegs = [cv2.imencode(".jpg", frame, [1, 100])[1].tobytes() for frame in frames]
        dataset.PixelData = encapsulate(jpegs, has_bot=syntax == "jpeg")
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.FrameTimeVector = [0, 30, 50]
    path = tmp_path / "cut.dcm"
    dataset.save_as(path)
    whole = DicomFrames.open(path)
    assert (len(whole), codes(whole)) == (3, [])
    content = path.read_bytes()
    path.write_bytes(content[:-300])
    study = DicomFrames.open(path)
    assert (len(study), codes(study)) == (2, ["cine_truncated"])
    assert "2 of 3 frames" in study.notes[0].text
    for index in range(2):
        assert np.abs(study.read(index).astype(int) - frames[index]).max() <= 2
    assert study.frame_seconds == pytest.approx((0, 0.03))


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("stated", [3, 0])
def test_frames_in_several_fragments(
    make_study: Make, tmp_path: Path, has_table: bool, stated: int
) -> None:
    frames = [np.full((40, 60), level, np.uint8) for level in (30, 120, 210)]
    jpegs = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    dataset = dcmread(make_study(np.stack(frames)))
    dataset.PixelData = encapsulate(jpegs, fragments_per_frame=3, has_bot=has_table)
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.NumberOfFrames = stated
    dataset.save_as(tmp_path / "fragments.dcm")
    study = DicomFrames.open(tmp_path / "fragments.dcm")
    assert len(study) == 3
    assert [round(float(study.read(index).mean())) for index in (2, 0, 1)] == [210, 30, 120]


def test_an_extended_offset_table(make_study: Make, tmp_path: Path) -> None:
    frames = [np.full((40, 60), level, np.uint8) for level in (30, 120, 210)]
    jpegs = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    dataset = dcmread(make_study(np.stack(frames)))
    content, offsets, lengths = encapsulate_extended(jpegs)
    dataset.PixelData, dataset.ExtendedOffsetTable = content, offsets
    dataset.ExtendedOffsetTableLengths = lengths
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(tmp_path / "extended.dcm")
    study = DicomFrames.open(tmp_path / "extended.dcm")
    assert [round(float(study.read(index).mean())) for index in (2, 0, 1)] == [210, 30, 120]


@pytest.mark.parametrize(("stated", "noted"), [(0, ["tag_ignored"]), (None, ["tag_ignored"])])
def test_frames_are_counted_where_the_file_does_not_say(
    make_study: Make, cine: Cine, stated: int | None, noted: list[str]
) -> None:
    path = make_study(cine)
    dataset = dcmread(path)
    del dataset.NumberOfFrames
    if stated is not None:
        dataset.NumberOfFrames = stated
    dataset.save_as(path)
    study = DicomFrames.open(path)
    assert (len(study), codes(study)) == (3, noted)
    np.testing.assert_array_equal(study.read(2), cine[2])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("keep_meta", [True, False])
def test_files_without_preamble_or_meta_are_read(
    make_study: Make, cine: Cine, tmp_path: Path, syntax: UID, keep_meta: bool
) -> None:
    dataset = dcmread(make_study(cine))
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "bare"
    dataset.save_as(path)
    content = path.read_bytes()[132:]
    if not keep_meta:
        content = content[12 + int.from_bytes(content[8:12], "little") :]
    path.write_bytes(content)
    assert is_dicom_file(path)
    study = DicomFrames.open(path)
    np.testing.assert_array_equal(study.read(2), cine[2])
    assert "header_missing" in codes(study)


def test_a_window_without_a_width_is_passed_over(make_study: Make) -> None:
    values = np.arange(2400, dtype=np.uint16).reshape(1, 40, 60)
    elements = {"BitsStored": 12, "HighBit": 11, "WindowCenter": [0, 500], "WindowWidth": [0, 200]}
    study = DicomFrames.open(make_study(values, **elements))
    assert codes(study) == ["window_ignored"]
    assert study.read(0).ravel()[[400, 500, 600]].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "elements",
    [{"RescaleSlope": "x"}, {"RescaleIntercept": "x"}, {"WindowCenter": "x", "WindowWidth": "y"}],
)
def test_grey_value_elements_that_are_no_numbers_are_noted(
    make_study: Make, cine: Cine, elements: dict[str, str]
) -> None:
    path = make_study(cine)
    dataset = dcmread(path)
    for keyword, value in elements.items():
        dataset.add_new(keyword, "LO", value)  # as text, which no number is
    dataset.save_as(path)
    study = DicomFrames.open(path)
    assert np.array_equal(study.read(0), DicomFrames.open(make_study(cine, name="a.dcm")).read(0))
    assert codes(study) == ["tag_ignored"]


@pytest.mark.parametrize(
    "keyword", ["NumberOfFrames", "HighBit", "PlanarConfiguration", "FrameTime", "CineRate"]
)
def test_elements_that_are_no_numbers_are_noted_by_name_alone(
    make_study: Make, cine: Cine, keyword: str
) -> None:
    path = make_study(np.repeat(cine[..., None], 3, axis=3), photometric="RGB")
    dataset = dcmread(path)
    dataset.add_new(keyword, "LO", "SECRET")
    dataset.save_as(path)
    study = DicomFrames.open(path)
    assert len(study) == 3
    noted = [note.text for note in study.notes if keyword in note.text]
    assert noted == [f"{keyword} is no number and was passed over."]
    assert not any("SECRET" in note.text for note in study.notes)


def test_every_frame_of_an_enhanced_image_has_its_own_window(make_study: Make) -> None:
    values = np.stack([np.arange(2400, dtype=np.uint16).reshape(40, 60)] * 2)
    groups = []
    for centre in (500, 1500):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 201
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    study = DicomFrames.open(make_study(values, PerFrameFunctionalGroupsSequence=groups))
    # PS3.3 C.11.2.1.2.1: half of the levels at half a value below the centre
    for frame, centre in enumerate((500, 1500)):
        levels = study.read(frame).ravel()[[centre - 101, centre, centre + 101]]
        np.testing.assert_allclose(levels, [0, 128, 255], atol=1)


def test_a_table_that_cannot_be_used_is_noted(make_study: Make, cine: Cine) -> None:
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    study = DicomFrames.open(make_study(cine, VOILUTSequence=[item], RescaleSlope=0))
    assert codes(study) == ["tag_ignored", "tag_ignored"]
    np.testing.assert_array_equal(study.read(0), cine[0])


@pytest.mark.parametrize("stated", [(640, 480), (64, 48)])
def test_videos_are_read_by_opencv(
    make_study: Make, tmp_path: Path, stated: tuple[int, int]
) -> None:
    width, height = 64, 48
    clip = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MPEG-4")
    levels = [40, 90, 140, 200, 240]
    for level in levels:
        writer.write(np.full((height, width, 3), level, np.uint8))
    writer.release()
    dataset = dcmread(
        make_study(np.zeros((5, stated[1], stated[0], 3), np.uint8), photometric="RGB")
    )
    dataset.PhotometricInterpretation = "YBR_PARTIAL_420"
    dataset.PixelData = encapsulate([clip.read_bytes()], has_bot=False)
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    path = tmp_path / "video.dcm"
    dataset.save_as(path)
    study = DicomFrames.open(path)
    if stated != (width, height):
        with pytest.raises(ImageFileError, match="640 x 480 pixels, but its video has 64 x 48"):
            study.read(0)
        return
    for index in (3, 0, 4, 1):  # not in order
        assert study.read(index).mean() == pytest.approx(levels[index], abs=4)
    dataset.PixelData = encapsulate([b"no video" * 40], has_bot=False)
    dataset.save_as(path)
    with pytest.raises(ImageFileError, match="OpenCV cannot read"):
        DicomFrames.open(path).read(0)


def test_a_compressed_image_of_another_size_is_refused_before_it_is_decoded(
    make_study: Make, tmp_path: Path
) -> None:
    dataset = dcmread(make_study(np.zeros((1, 40, 60), np.uint8)))
    picture = cv2.imencode(".jpg", np.zeros((4000, 6000), np.uint8))[1].tobytes()
    dataset.PixelData = encapsulate([picture])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(tmp_path / "bomb.dcm")
    study = DicomFrames.open(tmp_path / "bomb.dcm")
    peak = refused_within_bytes(lambda: study.read(0))
    assert peak < 8_000_000


def refused_within_bytes(run: Callable[[], object]) -> int:
    """The most memory that Python and numpy held at a time, until an ImageFileError."""
    tracemalloc.start()
    try:
        with pytest.raises(ImageFileError):
            run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_deflated_and_rle_bombs_are_refused_without_expanding_them(
    make_study: Make, tmp_path: Path
) -> None:
    small = make_study(np.zeros((1, 40, 60), np.uint8))
    dataset = dcmread(small)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(small)
    content = small.read_bytes()
    meta = content[: 144 + int.from_bytes(content[140:144], "little")]
    deflating = zlib.compressobj(1, wbits=-15)
    zeros = b"".join(deflating.compress(bytes(1 << 20)) for _ in range(260))
    deflated = tmp_path / "deflated.dcm"
    deflated.write_bytes(meta + zeros + deflating.flush())
    assert deflated.stat().st_size < 2_000_000
    peak = refused_within_bytes(lambda: DicomFrames.open(deflated))
    assert peak < 20_000_000
    runs = dcmread(make_study(np.zeros((1, 40, 60), np.uint8)))
    header = np.zeros(16, "<u4")
    header[:2] = 1, 64
    runs.PixelData = encapsulate([header.tobytes() + b"\x81\0" * 600_000])
    runs["PixelData"].VR = "OB"
    runs.file_meta.TransferSyntaxUID = RLELossless
    runs.save_as(tmp_path / "rle.dcm")
    study = DicomFrames.open(tmp_path / "rle.dcm")
    with pytest.raises(ImageFileError, match="76800000 bytes, 2400 were expected"):
        study.read(0)


def test_truncated_files_are_errors_or_whole_frames(tmp_path: Path) -> None:
    content = pydicoms("examples_ybr_color.dcm").read_bytes()
    whole = DicomFrames.open(pydicoms("examples_ybr_color.dcm")).read(0)
    path = tmp_path / "cut.dcm"
    failed = 0
    for size in range(0, len(content), len(content) // 60):
        path.write_bytes(content[:size])
        try:
            frame = DicomFrames.open(path).read(0)
        except ImageFileError as err:
            failed += 1
            assert "\n" not in str(err)
            assert str(path) in str(err)
        else:
            np.testing.assert_array_equal(frame, whole)
    assert failed >= 1


def test_flipped_bytes_never_crash(tmp_path: Path, make_study: Make, cine: Cine) -> None:
    content = bytearray(make_study(cine).read_bytes())
    generator = np.random.default_rng(0)
    path = tmp_path / "flipped.dcm"
    for _ in range(150):
        damaged = bytearray(content)
        for at in generator.integers(128, 1200, 4):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            frame = DicomFrames.open(path).read(0)
        except ImageFileError:
            continue
        assert frame.dtype == np.uint8


def test_a_path_is_an_image_or_a_study(make_study: Make, cine: Cine, tmp_path: Path) -> None:
    path = make_study(cine, name="no_suffix")
    assert is_dicom_file(path)
    source = open_frames(path)
    assert source.study is not None
    np.testing.assert_array_equal(source.read(2), cine[2])
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), cine[0])
    assert open_frames(image).study is None
    with pytest.raises(ValueError, match="has no frame 1"):
        open_frames(image).read(1)
    with pytest.raises(ImageFileError):
        open_frames(tmp_path / "missing.dcm")
