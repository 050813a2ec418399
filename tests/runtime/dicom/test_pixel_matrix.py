"""Small files of every kind, against the standard's formulas.

The formulas are those of PS3.3, C.7.6.3 and C.11, written here a second time. Where SimpleITK or
DCMTK is installed, they read the files as well.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    UltrasoundImageStorage,
)

from samus_edge.runtime import DicomFrames

Stored = npt.NDArray[Any]
Levels = npt.NDArray[np.float64]

H, W = 12, 20
ROUNDING = 1.01  # grey levels: one rounding each, on either side of a half
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
}
PLAIN = UID(ExplicitVRLittleEndian)


def dataset_of(values: Stored, photometric: str, bits: int, **elements: Any) -> Dataset:
    """An image of unsigned or signed values, (H, W) or (H, W, 3), without its pixel data."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UltrasoundImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = UID("1.2.3.4")
    made.Rows, made.Columns = values.shape[:2]
    made.SamplesPerPixel = 3 if values.ndim == 3 else 1
    if values.ndim == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = photometric
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * values.itemsize, bits, bits - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def written(made: Dataset, values: Stored, syntax: UID) -> bytes:
    """The file of a dataset with its pixel data in a transfer syntax."""
    made.file_meta.TransferSyntaxUID = syntax
    if syntax in (JPEG2000Lossless, JPEG2000):
        content = BytesIO()
        unsigned = values.view(f"u{values.itemsize}")
        Image.fromarray(unsigned).save(
            content, "JPEG2000", irreversible=False, no_jp2=True, mct=int(values.ndim == 3)
        )
        made.PixelData = encapsulate([content.getvalue()])
        made["PixelData"].VR = "OB"
    elif syntax == RLELossless:
        made.PixelData = encapsulate([rle_of(values)])
        made["PixelData"].VR = "OB"
    elif syntax == JPEGLSLossless:
        made.file_meta.TransferSyntaxUID = PLAIN
        made.PixelData = values.tobytes()
        made.compress(syntax)
    else:
        dtype = values.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
        content_bytes = values.astype(dtype).tobytes()
        made.PixelData = content_bytes + b"\0" * (len(content_bytes) % 2)
        made["PixelData"].VR = "OW" if values.itemsize == 2 else "OB"
    file = BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def rle_of(values: Stored) -> bytes:
    """Byte planes of the samples, high bytes first, as literal runs (PS3.5 annex G)."""
    planes = values.reshape(-1, values.shape[2] if values.ndim == 3 else 1)
    segments = []
    for channel in planes.T:
        octets = channel.astype(values.dtype.newbyteorder(">")).tobytes()
        for byte in range(values.itemsize):
            plane = octets[byte :: values.itemsize]
            runs = [plane[at : at + 128] for at in range(0, len(plane), 128)]
            segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
            segments.append(segment + b"\0" * (len(segment) % 2))
    starts = 64 + np.cumsum([0, *(len(segment) for segment in segments[:-1])])
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(segments)] = len(segments), starts
    return header.tobytes() + b"".join(segments)


def read(content: bytes) -> npt.NDArray[np.uint8]:
    return DicomFrames.from_bytes(content, Path("made.dcm")).read(0)


def agree(content: bytes, expected: Levels, tolerance: float = ROUNDING) -> float:
    """The largest difference of a file's first frame, checked."""
    worst = float(np.abs(read(content) - expected).max())
    assert worst <= tolerance
    return worst


# ------------------------------------------------------------------ grey


@dataclass(frozen=True)
class Table:
    """A lookup table of the file."""

    first: int
    bits: int
    entries: npt.NDArray[np.uint16]

    def __call__(self, values: Levels) -> Levels:
        at = np.clip(np.rint(values).astype(int) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[at], np.float64)

    def item(self, is_big: bool, is_signed: bool) -> Dataset:
        found = Dataset()
        kind = "SS" if is_signed else "US"
        count = len(self.entries) % 65536
        count = count - 65536 if is_signed and count > 32767 else count
        found.add_new("LUTDescriptor", kind, [count, self.first, self.bits])
        found.add_new("LUTData", "OW", self.entries.astype(">u2" if is_big else "<u2").tobytes())
        found.ModalityLUTType = "US"
        return found


@dataclass(frozen=True)
class Stages:
    """What a file says of its grey values."""

    slope: float | None = None
    intercept: float = 0
    modality: Table | None = None
    window: tuple[str, float, float] | None = None
    voi: Table | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def elements(self, is_big: bool, low: float) -> dict[str, Any]:
        found: dict[str, Any] = dict(self.extra)
        if self.slope is not None:
            found |= {"RescaleSlope": self.slope, "RescaleIntercept": self.intercept}
        if self.modality is not None:
            found["ModalityLUTSequence"] = Sequence([self.modality.item(is_big, low < 0)])
        if self.window is not None:
            function, centre, width = self.window
            found |= {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
        if self.voi is not None:
            is_signed = low < 0 and self.modality is None
            found["VOILUTSequence"] = Sequence([self.voi.item(is_big, is_signed)])
        return found

    def modality_values(self, stored: Stored) -> Levels:
        values = stored.astype(float)
        if self.modality is not None:
            return self.modality(values)
        return values if self.slope is None else values * self.slope + self.intercept

    def levels(self, stored: Stored, low: float, high: float, is_inverted: bool) -> Levels:
        """Grey levels, not rounded, by C.11.1 and C.11.2."""
        x = self.modality_values(stored)
        if self.modality is not None:
            low, high = 0, 2**self.modality.bits - 1
        elif self.slope is not None:
            ends = (low * self.slope + self.intercept, high * self.slope + self.intercept)
            low, high = min(ends), max(ends)
        y_min, y_max = low, high
        if self.voi is not None:
            y, y_min, y_max = self.voi(x), 0, 2**self.voi.bits - 1
        elif self.window is not None:
            y = windowed(x, *self.window, y_min, y_max)
        else:
            y = x
        grey = (y - y_min) / (y_max - y_min) * 255
        return 255 - grey if is_inverted else grey


def windowed(x: Levels, function: str, c: float, w: float, y_min: float, y_max: float) -> Levels:
    """The pseudo-code of C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2."""
    if function == "LINEAR":
        below, above = x <= c - 0.5 - (w - 1) / 2, x > c - 0.5 + (w - 1) / 2
        line = ((x - (c - 0.5)) / (w - 1) + 0.5) * (y_max - y_min) + y_min
    elif function == "LINEAR_EXACT":
        below, above = x <= c - w / 2, x > c + w / 2
        line = ((x - c) / w + 0.5) * (y_max - y_min) + y_min
    else:
        return (y_max - y_min) / (1 + np.exp(-4 * (x - c) / w)) + y_min
    return np.where(below, y_min, np.where(above, y_max, line))


def curve(count: int, bits: int, power: float) -> npt.NDArray[np.uint16]:
    """Entries from 0 to the largest value."""
    shares = (np.arange(count) / (count - 1)) ** power
    return np.asarray(np.rint(shares * (2**bits - 1)), np.uint16)


def grey_stages(bits: int, is_signed: bool) -> list[Stages]:
    size = 2**bits
    low = -size // 2 if is_signed else 0
    middle, some = low + size / 2, min(size, 4096)
    rescaled_middle = middle * 0.5 - 3
    return [
        Stages(),
        Stages(slope=0.5, intercept=-3),
        Stages(slope=-2, intercept=7),
        Stages(window=("LINEAR", middle, size / 3)),
        Stages(window=("LINEAR_EXACT", middle + 3, size / 2)),
        Stages(window=("SIGMOID", middle, size / 4)),
        Stages(slope=0.5, intercept=-3, window=("LINEAR", rescaled_middle, size / 5)),
        Stages(slope=0.5, intercept=-3, window=("SIGMOID", rescaled_middle, size / 5)),
        Stages(slope=-2, intercept=7, window=("LINEAR_EXACT", -2 * middle, size)),
        Stages(modality=Table(low, 8, curve(some, 8, 0.7))),
        Stages(modality=Table(low + 5, 12, curve(some, 12, 1.4))),
        Stages(modality=Table(low, 16, curve(some, 16, 1)), window=("LINEAR", 30000, 20000)),
        Stages(voi=Table(low, 8, curve(some, 8, 0.7))),
        Stages(voi=Table(low + size // 4, 16, curve(min(size // 2, 4096), 16, 1.4))),
        Stages(slope=1, intercept=100, voi=Table(low + 100, 12, curve(some, 12, 1))),
        Stages(modality=Table(low, 8, curve(some, 8, 1)), voi=Table(0, 8, curve(256, 8, 2))),
        Stages(extra={"WindowCenter": 0, "WindowWidth": 0}),
        Stages(
            window=("LINEAR", middle, size / 3),
            extra={"PixelPaddingValue": low, "SmallestImagePixelValue": low},
        ),
    ]


def grey_values(bits: int, is_signed: bool) -> Stored:
    """The whole range, in steps."""
    low = -(2 ** (bits - 1)) if is_signed else 0
    values = np.rint(np.linspace(low, low + 2**bits - 1, H * W)).reshape(H, W)
    return values.astype(f"{'i' if is_signed else 'u'}{1 if bits <= 8 else 2}")


@dataclass(frozen=True)
class GreyFile:
    """A file of the matrix."""

    content: bytes
    values: Stored
    stages: Stages
    expected: Levels
    name: str


def grey_files(syntax: str, bits: int, is_signed: bool) -> Iterator[GreyFile]:
    values = grey_values(bits, is_signed)
    low = -(2 ** (bits - 1)) if is_signed else 0
    for (number, stages), photometric in product(
        enumerate(grey_stages(bits, is_signed)), ("MONOCHROME1", "MONOCHROME2")
    ):
        made = dataset_of(values, photometric, bits, **stages.elements(syntax == "big", low))
        yield GreyFile(
            written(made, values, UID(SYNTAXES[syntax])),
            values,
            stages,
            stages.levels(values, low, low + 2**bits - 1, photometric == "MONOCHROME1"),
            f"{syntax}-{bits}-{is_signed}-{number}-{photometric}",
        )


GREY_KINDS = list(product(SYNTAXES, (7, 8, 12, 16), (False, True)))


@pytest.mark.parametrize(("syntax", "bits", "is_signed"), GREY_KINDS)
def test_grey_levels_are_those_of_the_formulas(syntax: str, bits: int, is_signed: bool) -> None:
    worst = {
        file.name: np.abs(read(file.content) - file.expected).max()
        for file in grey_files(syntax, bits, is_signed)
    }
    assert {name: value for name, value in worst.items() if value > ROUNDING} == {}
    assert len(worst) == 36


def test_simpleitk_reads_the_same_modality_values(tmp_path: Path) -> None:
    """GDCM applies rescaling alone; it shows that the files are what the formulas assume."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, an independent reader, is not there")
    path = tmp_path / "made.dcm"
    refused: set[tuple[str, int]] = set()
    for syntax, bits, is_signed in GREY_KINDS:
        for file in grey_files(syntax, bits, is_signed):
            if file.stages.modality is not None or file.name.endswith("1"):
                continue
            path.write_bytes(file.content)
            try:
                found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
            except RuntimeError:
                refused.add((syntax, bits))
                break
            expected = file.stages.modality_values(file.values)
            np.testing.assert_allclose(found, expected, atol=0.5, err_msg=file.name)
    # It has no samples of 7 bits, and takes no codestream of more bits than the file states.
    assert refused <= {("jpeg-2000", 12), *((syntax, 7) for syntax in SYNTAXES)}


def test_dcmtk_shows_the_same_picture(tmp_path: Path) -> None:
    tool = shutil.which("dcm2pnm")
    if tool is None:
        pytest.skip("DCMTK's dcm2pnm, an independent reader, is not there")
    source, picture = tmp_path / "made.dcm", tmp_path / "made.pgm"
    for syntax, is_signed in (("explicit", False), ("big", True), ("rle", False)):
        for file in grey_files(syntax, 12, is_signed):
            if file.stages.window is None and file.stages.voi is None:
                continue  # DCMTK then stretches what is there
            option = ["+Wl", "1"] if file.stages.voi is not None else ["+Wi", "1"]
            source.write_bytes(file.content)
            subprocess.run(
                [tool, "+op", *option, str(source), str(picture)], check=True, capture_output=True
            )
            shown = np.asarray(cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE), np.float64)
            assert np.abs(read(file.content) - shown).mean() <= 1, file.name


@pytest.mark.parametrize("syntax", ["explicit", "big", "rle"])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize(("bits", "high_bit"), [(12, 15), (10, 13), (8, 15), (8, 7), (1, 0)])
def test_high_bit_counts_apart_from_bits_stored(
    syntax: str, is_signed: bool, bits: int, high_bit: int
) -> None:
    values = np.rint(np.linspace(0, 2**bits - 1, H * W)).reshape(H, W).astype(np.uint16)
    noise = np.random.default_rng(3).integers(0, 65536, (H, W), np.uint16)
    mask = np.uint16((2**bits - 1) << (high_bit + 1 - bits))
    placed = (values << np.uint16(high_bit + 1 - bits)) | (noise & ~mask)  # overlays and rubbish
    made = dataset_of(
        placed, "MONOCHROME2", bits, HighBit=high_bit, PixelRepresentation=int(is_signed)
    )
    signed = np.where(is_signed & (values >= 2 ** (bits - 1)), -1.0, 0.0) * 2**bits + values
    low = -(2 ** (bits - 1)) if is_signed else 0
    agree(written(made, placed, UID(SYNTAXES[syntax])), (signed - low) / (2**bits - 1) * 255)


# ------------------------------------------------------------------ palettes


def grey_of(rgb: npt.NDArray[Any]) -> Levels:
    return np.asarray(rgb.astype(float) @ [0.299, 0.587, 0.114])


def palette(count: int) -> npt.NDArray[np.uint8]:
    """Colours of 8 bits, (count, 3)."""
    return np.random.default_rng(7).integers(0, 256, (count, 3), np.uint8)


def swapped(content: bytes) -> bytes:
    return np.frombuffer(content, ">u2").astype("<u2").tobytes()


FORMS = ("16", "16 replicated", "8 in 16", "8 packed", "16 holding 8")


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big", "deflated", "rle", "jpeg-ls"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("first", "count"), [(0, 256), (10, 200), (3, 101)])
def test_palettes(syntax: str, form: str, bits: int, first: int, count: int) -> None:
    values = np.arange(H * W).reshape(H, W).astype(f"u{bits // 8}")
    colours = palette(count)
    elements: dict[str, Any] = {}
    for name, channel in zip(("Red", "Green", "Blue"), colours.T, strict=True):
        words = channel.astype(np.uint16)
        if form == "8 packed":
            content = channel.tobytes() + b"\0" * (count % 2)
            content = swapped(content) if syntax == "big" else content  # words of two entries
        else:
            words = words << 8 if form == "16" else words * 257 if "replicated" in form else words
            content = words.astype(">u2" if syntax == "big" else "<u2").tobytes()
        depth = 8 if form.startswith("8") else 16
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [count, first, depth]
        elements[f"{name}PaletteColorLookupTableData"] = content
    made = dataset_of(values, "PALETTE COLOR", bits, **elements)
    shown = colours[np.clip(values.astype(int) - first, 0, count - 1)]
    agree(written(made, values, UID(SYNTAXES[syntax])), grey_of(shown))


@pytest.mark.parametrize("syntax", ["explicit", "big"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("offset_unit", ["bytes", "entries"])
def test_segmented_palettes(syntax: str, depth: int, offset_unit: str) -> None:
    """Discrete, linear and indirect segments (C.7.9.2), worked out by hand."""
    scale = 257 if depth == 16 else 1
    discrete = [0, 4, 10 * scale, 20 * scale, 30 * scale, 0]  # 4 entries
    linear = [1, 100, 200 * scale]  # from 0 to 200 in 100 steps
    where = len(discrete)
    if offset_unit == "bytes":
        where *= depth // 8
    # Once more the linear segment, now from 200 on: all 200.
    indirect = [2, 1, where, 0, 0, 0] if depth == 8 else [2, 1, where, 0]
    last = [1, 52, 255 * scale]
    segments = np.array([*discrete, *linear, *indirect, *last], np.uint16)
    if depth == 8:
        content = segments.astype(np.uint8).tobytes() + b"\0" * (len(segments) % 2)
        content = swapped(content) if syntax == "big" else content
    else:
        content = segments.astype(">u2" if syntax == "big" else "<u2").tobytes()
    expected = np.concatenate(
        [
            [10, 20, 30, 0],
            np.linspace(2, 200, 100),
            np.full(100, 200),
            200 + 55 / 52 * np.arange(1, 53),
        ]
    )
    elements: dict[str, Any] = {}
    for name in ("Red", "Green", "Blue"):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, depth]
        elements[f"Segmented{name}PaletteColorLookupTableData"] = content
    values = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    made = dataset_of(values, "PALETTE COLOR", 8, **elements)
    agree(written(made, values, UID(SYNTAXES[syntax])), expected[values])


# ------------------------------------------------------------------ colour


def smooth_rgb() -> npt.NDArray[np.uint8]:
    """A colour picture that compresses well, (16, 32, 3)."""
    y, x = np.mgrid[0:16, 0:32]
    return np.stack([40 + 5 * x, 200 - 8 * y, 60 + 3 * x + 4 * y], axis=-1).astype(np.uint8)


def to_ybr(rgb: npt.NDArray[Any]) -> Levels:
    """C.7.6.3.1.2, YBR_FULL."""
    matrix = [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
    return np.asarray(rgb.astype(float) @ np.array(matrix).T + [0, 128, 128])


COLOUR_BITS = [(8, 8, 7), (16, 8, 7), (16, 8, 15), (16, 12, 11), (16, 16, 15)]
COLOUR_KINDS = [
    *product(
        ("implicit", "explicit", "big", "deflated", "rle"),
        (0, 1),
        ("RGB", "YBR_FULL"),
        COLOUR_BITS,
    ),
    # What the encoders that are installed can write.
    *product(("jpeg-ls",), (0,), ("RGB", "YBR_FULL"), COLOUR_BITS[:1]),
    ("jpeg-2000", 0, "RGB", COLOUR_BITS[0]),
]


@pytest.mark.parametrize(("syntax", "planar", "label", "sample"), COLOUR_KINDS)
def test_colours(syntax: str, planar: int, label: str, sample: tuple[int, int, int]) -> None:
    allocated, bits, high_bit = sample
    rgb = smooth_rgb()
    samples = np.rint((rgb if label == "RGB" else to_ybr(rgb)) * ((2**bits - 1) / 255))
    values = samples.astype(f"u{allocated // 8}") << (high_bit + 1 - bits)
    values = values.astype(f"u{allocated // 8}")
    made = dataset_of(values, label, bits, HighBit=high_bit, PlanarConfiguration=planar)
    if planar == 1 and syntax != "rle":
        planes = np.ascontiguousarray(values.transpose(2, 0, 1))
        content = written(made, planes.reshape(values.shape), UID(SYNTAXES[syntax]))
    elif planar == 1:
        made.PlanarConfiguration = 0
        content = written(made, values, UID(SYNTAXES[syntax]))
    else:
        content = written(made, values, UID(SYNTAXES[syntax]))
    # YBR is rounded before it is stored, in three samples.
    agree(content, grey_of(rgb), ROUNDING if label == "RGB" else 2 * ROUNDING)


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big"])
@pytest.mark.parametrize("label", ["YBR_FULL_422", "YBR_PARTIAL_422"])
def test_colours_stored_for_pairs_of_pixels(syntax: str, label: str) -> None:
    rgb = smooth_rgb()
    rgb[:, 1::2] = rgb[:, ::2]
    ybr = to_ybr(rgb)
    if "PARTIAL" in label:
        ybr = ybr * [219 / 255, 224 / 255, 224 / 255] + [
            16,
            128 - 128 * 224 / 255,
            128 - 128 * 224 / 255,
        ]
    ybr = np.rint(ybr)
    stored = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1)
    made = dataset_of(rgb, label, 8)
    content = written(made, stored.astype(np.uint8), UID(SYNTAXES[syntax]))
    agree(content, grey_of(rgb), 2 * ROUNDING)


MARKERS: dict[str, tuple[bytes, bytes]] = {
    "none": (b"", b"\1\2\3"),
    "JFIF": (b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0", b"\1\2\3"),
    "Adobe 0": (b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0", b"\1\2\3"),
    "Adobe 1": (b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1", b"\1\2\3"),
    "RGB names": (b"", b"RGB"),
}
SAYS = {"JFIF": "YBR", "Adobe 0": "RGB", "Adobe 1": "YBR", "RGB names": "RGB"}


def jpeg_of(samples: npt.NDArray[np.uint8], markers: bytes, names: bytes) -> bytes:
    """A JPEG whose three components are samples as they are, with given markers."""
    file = BytesIO()
    Image.fromarray(samples).convert("RGB").save(
        file, "JPEG", quality=100, keep_rgb=True, subsampling=0
    )
    content = file.getvalue()
    segments, at = [], 2
    while content[at + 1] != 0xDA:
        size = 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        segments.append(bytearray(content[at : at + size]))
        at += size
    scan = bytearray(content[at:])
    kept = [each for each in segments if each[1] not in (0xE0, 0xEE)]
    for each in kept:
        if each[1] == 0xC0:
            for index in range(3):
                each[10 + 3 * index] = names[index]
    for index in range(3):
        scan[5 + 2 * index] = names[index]
    return b"\xff\xd8" + markers + b"".join(map(bytes, kept)) + bytes(scan)


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422", "MONOCHROME2"])
@pytest.mark.parametrize("markers", MARKERS)
def test_the_markers_of_a_jpeg_decide_over_the_label(label: str, markers: str) -> None:
    space = SAYS.get(markers, "YBR" if label.startswith("YBR") else "RGB")
    rgb = smooth_rgb()
    samples = rgb if space == "RGB" else np.rint(to_ybr(rgb)).clip(0, 255).astype(np.uint8)
    made = dataset_of(samples, label, 8)
    made.SamplesPerPixel = 1 if label == "MONOCHROME2" else 3
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PixelData = encapsulate([jpeg_of(samples, *MARKERS[markers])])
    made["PixelData"].VR = "OB"
    file = BytesIO()
    made.save_as(file, enforce_file_format=True)
    study = DicomFrames.from_bytes(file.getvalue(), Path("made.dcm"))
    assert np.abs(study.read(0) - grey_of(rgb)).mean() <= 1
    contradicts = label == "MONOCHROME2" or (markers in SAYS and SAYS[markers] != label[:3])
    assert ("tag_ignored" in [note.code for note in study.notes]) == contradicts


@pytest.mark.parametrize("label", ["RGB", "YBR_RCT", "YBR_FULL"])
def test_the_transformation_of_jpeg_2000_decides_over_the_label(label: str) -> None:
    rgb = smooth_rgb()
    made = dataset_of(rgb, label, 8)
    agree(written(made, rgb, UID(JPEG2000Lossless)), grey_of(rgb))
