"""What a file takes in memory: bounded by its pixels, and given back, also after an error."""

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundImageStorage,
)

from samus_edge.runtime.images.image_io import MAX_FILE_PIXELS

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not say what a process holds"
)

SIDE = 4096
READ = """
import resource, sys
import cv2, numpy, pydicom, pydicom.pixels
from PIL import Image
from samus_edge.errors import ImageFileError
from samus_edge.runtime import DicomFrames, read_image
def held(): return int(open("/proc/self/statm").read().split()[1]) * 4096 // 1_000_000
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 1_000_000
before = peak()
errors = []
for path in sys.argv[1:]:
    try:
        frame = DicomFrames.open(path).read(0) if path.endswith(".dcm") else read_image(path)
        assert frame.shape == (4096, 4096)
        del frame
    except ImageFileError as err:
        errors.append(err)  # as a service keeps them in its log
print(peak() - before, held() - before, *errors or ["read"])
"""


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(path: Path, side: int = SIDE) -> None:
    """A black image of four channels of 16 bits: a few hundred kB."""
    packing = zlib.compressobj(1)
    rows = b"".join(packing.compress(bytes(1 + side * 8)) for _ in range(side)) + packing.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in chunks))


def damaged_png(path: Path) -> None:
    deep_png(path)
    content = bytearray(path.read_bytes())
    content[-16] ^= 1  # of the last bytes of the pixels: found when all else is decoded
    path.write_bytes(content)


def saved(mode: str, **options: object) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (SIDE, SIDE)).save(path, **options)  # type: ignore[arg-type]


def dicom(path: Path, syntax: UID, pixels: bytes, **elements: object) -> None:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundImageStorage, UID("1.2.3")
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration, dataset.PixelRepresentation = 0, 0
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels
    dataset["PixelData"].VR = "OB" if syntax != DeflatedExplicitVRLittleEndian else "OW"
    dataset["PixelData"].is_undefined_length = syntax != DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def deflated_dicom(path: Path) -> None:
    dicom(path, DeflatedExplicitVRLittleEndian, bytes(SIDE * SIDE * 6))


def run_length_dicom(path: Path) -> None:
    segment = b"\x81\x00" * (SIDE * SIDE // 128)  # 128 zeros each
    offsets = [64 + index * len(segment) for index in range(6)]
    header = struct.pack("<16I", 6, *offsets, *[0] * 9)
    dicom(path, RLELossless, encapsulate([header + segment * 6]))


def jpeg_dicom(path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(content, "JPEG", progressive=True)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    dicom(path, JPEGBaseline8Bit, encapsulate([content.getvalue()]), **eight)


def measured(*paths: Path) -> tuple[int, int, str]:
    """Of a process that reads the files: its peak and what it holds at the end, MB more than
    before, and what came of it."""
    command = [sys.executable, "-c", READ, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, held, result = done.stdout.strip().split(" ", 2)
    return int(peak), int(held), result


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("deep.png", deep_png),
        ("palette.png", saved("P")),
        ("progressive.jpg", saved("CMYK", progressive=True)),
        ("deflate.tif", saved("RGBA", compression="tiff_deflate")),
        ("lossless.webp", saved("RGB", lossless=True, method=0)),
        ("deflated.dcm", deflated_dicom),
        ("run_length.dcm", run_length_dicom),
        ("jpeg.dcm", jpeg_dicom),
    ],
)
def test_a_large_frame_takes_less_than_500_mb_and_nothing_afterwards(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    assert SIDE**2 == MAX_FILE_PIXELS
    make(tmp_path / name)
    peak, held, result = measured(tmp_path / name)
    assert result == "read"
    assert peak < 500
    assert held < 60


def test_nothing_is_held_after_an_error(tmp_path: Path) -> None:
    damaged_png(tmp_path / "damaged.png")
    _, held, result = measured(tmp_path / "damaged.png")
    assert "damaged" in result
    assert held < 60


def test_a_frame_of_more_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    paths = [tmp_path / f"large.{kind}" for kind in ("png", "webp", "tif", "bmp", "jpg")]
    for path in paths:
        Image.new("L", (SIDE * 2, SIDE + 1)).save(path)
    peak, _, result = measured(*paths)
    for path in paths:
        reason = f"8192 x 4097 pixels, more than the limit of {MAX_FILE_PIXELS}"
        assert re.search(f"{re.escape(str(path))}[^\n]*? {reason}", result), result
    assert peak < 60


def test_samples_of_a_study_are_bounded_too(tmp_path: Path) -> None:
    wide = {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}
    dicom(tmp_path / "wide.dcm", DeflatedExplicitVRLittleEndian, bytes(SIDE * SIDE * 12), **wide)
    peak, held, result = measured(tmp_path / "wide.dcm")
    assert "frames of 201326592 bytes, more than the limit of 134217728" in result
    assert peak < 500
    assert held < 60


def test_tiles_of_a_tiff_are_bounded_too(tmp_path: Path) -> None:
    """A tile is decoded as a whole, however little of it belongs to the image."""
    side = 30_000
    packing = zlib.compressobj(1)
    tile = b"".join(packing.compress(bytes(side)) for _ in range(side)) + packing.flush()
    tags = {256: 32, 257: 32, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    entries = [*tags.items(), (324, 8 + 2 + 12 * 10 + 4), (325, len(tile))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    (tmp_path / "tiles.tif").write_bytes(
        struct.pack("<2sHIH", b"II", 42, 8, 10) + directory + bytes(4) + tile
    )
    peak, _, result = measured(tmp_path / "tiles.tif")
    assert "30000 x 30000 pixels in a tile" in result
    assert peak < 60
