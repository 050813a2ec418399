"""Frames, times and spacing from DICOM files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from samus_edge.errors import ImageFileError
from samus_edge.runtime.cine.cine_source import open_frames
from samus_edge.runtime.dicom.dicom_frames import DicomFrames, is_dicom_file
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing

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


def test_spacing_is_that_of_the_region_around_the_box(
    make_study: Make, cine: Cine, make_region: Callable[..., Dataset]
) -> None:
    left = make_region((0, 0, 29, 39), 0.01)
    right = make_region((30, 0, 59, 39), 0.02, PhysicalDeltaY=-0.04)
    spectrum = make_region((0, 0, 59, 39), 0.5, RegionSpatialFormat=3)
    study = DicomFrames.open(make_study(cine, regions=[left, right, spectrum]))
    assert study.spacing_in((5, 5, 20, 30)) == PixelSpacing.square(0.1)
    found = study.spacing_in((35, 5, 50, 30))
    assert found is not None
    assert found.row_mm == pytest.approx(0.4)
    assert found.column_mm == pytest.approx(0.2)
    assert study.spacing_in((20, 5, 40, 30)) is None  # over the border
    assert [each.is_2d for each in study.regions] == [True, True, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"PhysicalUnitsXDirection": 4},  # seconds
        {"PhysicalDeltaX": 0.0},
        {"PhysicalDeltaX": float("nan")},
        {"RegionLocationMaxX1": 600},  # outside: the image was scaled after it was made
    ],
)
def test_spacing_that_is_not_certain_is_none(
    make_study: Make, cine: Cine, make_region: Callable[..., Dataset], changes: dict[str, Any]
) -> None:
    study = DicomFrames.open(
        make_study(
            cine, regions=[make_region((0, 0, 59, 39), 0.01, **changes)], PixelSpacing=[1, 1]
        )
    )
    assert study.spacing_in((5, 5, 20, 30)) is None


def test_pixel_spacing_counts_where_there_are_no_regions(make_study: Make, cine: Cine) -> None:
    study = DicomFrames.open(make_study(cine, PixelSpacing=[0.3, 0.2]))
    assert study.spacing_in((0, 0, 5, 5)) == PixelSpacing(row_mm=0.3, column_mm=0.2)


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
        ("SC_rgb_jpeg_gdcm.dcm", "no decoder is installed"),
    ],
)
def test_files_without_an_image_say_so(name: str, message: str) -> None:
    with pytest.raises(ImageFileError, match=message):
        DicomFrames.open(pydicoms(name)).read(0)


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
