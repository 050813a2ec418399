"""The frames of a DICOM file, decoded one at a time."""

import os
import warnings
import zlib
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from samus_edge.errors import ImageFileError, missing_extra
from samus_edge.runtime.dicom.pixel_data import PixelData, Space, StoredFrame
from samus_edge.runtime.dicom.pixel_pipeline import (
    GreyLevels,
    StoredRange,
    grey_pipeline,
    is_no_number,
    numbers_of,
    palette_pipeline,
    pixel_elements,
    to_8_bits,
)
from samus_edge.runtime.dicom.spacing import Scale, UltrasoundRegion, read_regions
from samus_edge.runtime.images.image_io import MAX_FILE_BYTES, GreyFrame
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing
from samus_edge.runtime.notes import Note

if TYPE_CHECKING:
    from pydicom import Dataset

_PREAMBLE_BYTES = 128
_PREFIX = b"DICM"
HEAD_BYTES = _PREAMBLE_BYTES + len(_PREFIX)
"""Of a file that say whether it is DICOM."""

# Without a preamble a file begins with an element of group 2 or 8: group, element (here its high
# byte), and a value representation or, in implicit files, a length below 65536.
_FIRST_GROUPS = (b"\2\0", b"\x08\0", b"\0\x08")
_SECONDS = 1e-3
_RATES = ("CineRate", "RecommendedDisplayFrameRate")
_FRAME_TIME = 0x00181063  # its tag, to which Frame Increment Pointer may point
# Of a deflated file, which may expand to a thousand times its size.
_MAX_INFLATED_BYTES = 1 << 28


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM; needs `HEAD_BYTES` of it."""
    return head[_PREAMBLE_BYTES:HEAD_BYTES] == _PREFIX or _has_no_preamble(head)


def _has_no_preamble(head: bytes) -> bool:
    if head[:2] not in _FIRST_GROUPS or len(head) < HEAD_BYTES:
        return False
    element_high = head[2] if head[0] == 0 else head[3]
    is_explicit = head[4:6].isalpha() and head[4:6].isupper()
    is_implicit = head[0] != 0 and head[6:8] == b"\0\0"
    return element_high == 0 and (is_explicit or is_implicit)


def is_dicom_file(path: Path) -> bool:
    """Whether a file says that it is DICOM; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(HEAD_BYTES))
    except OSError:
        return False


def require_pydicom() -> None:
    """Make sure that DICOM files can be read.

    Raises:
        MissingExtraError: if pydicom 3 is not installed.
    """
    _require("pydicom", "pydicom.pixels")


def require_highdicom() -> None:
    """Make sure that DICOM segmentations and reports can be written.

    Raises:
        MissingExtraError: if highdicom is not installed.
    """
    _require("highdicom", "highdicom")


def _require(package: str, module: str) -> None:
    try:
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent
        is_there = False
    if not is_there:
        raise missing_extra("DICOM", package)


class DicomFrames:
    """A single- or multi-frame image in a DICOM file.

    Messages and notes never hold anything of the file but its path, numbers that describe its
    pixels, and names of elements.

    Args:
        dataset: of an image.
        path: for messages.

    Raises:
        ImageFileError: if it is not an image that can be read.
        MissingExtraError: without pydicom.
    """

    def __init__(self, dataset: "Dataset", path: Path) -> None:
        self._dataset, self._path = dataset, path
        self._pixels = PixelData(dataset, path)
        self._regions = read_regions(dataset, self._pixels.hw)
        self._scale = Scale(dataset, self._regions, len(self))
        self._notes = list(self._pixels.notes)
        for keyword in ("FrameTime", "FrameTimeVector", *_RATES):
            if is_no_number(dataset, keyword):
                text = f"{keyword} is no number and was passed over."
                self._notes.append(Note("tag_ignored", "warning", text))
        if not getattr(dataset, "preamble", None) or not getattr(dataset, "file_meta", None):
            self._notes.append(
                Note(
                    "header_missing",
                    "info",
                    "The file has no preamble or no file meta information; it was read all the "
                    "same.",
                )
            )
        self._levels: dict[tuple[StoredRange, Space], GreyLevels] = {}
        space = self._pixels.space
        if space in ("grey", "palette"):
            self._notes += self._levels_of(self._pixels.range, space, 0).notes

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "DicomFrames":
        """Read a file, but decode no frame yet.

        Raises:
            ImageFileError: if it is missing, too large, no DICOM, or not an image that can be read.
            MissingExtraError: without pydicom.
        """
        require_pydicom()
        file = Path(path)
        try:
            size = file.stat().st_size
            if size > MAX_FILE_BYTES:
                raise ImageFileError(
                    f"{file} has {size} bytes, more than the limit of {MAX_FILE_BYTES}. Split it."
                )
            with file.open("rb") as source:
                return cls._parse(source, file)
        except OSError as err:
            raise ImageFileError(f"{file} cannot be read: {err.strerror}.") from err

    @classmethod
    def from_bytes(cls, content: bytes, name: Path) -> "DicomFrames":
        """Read the content of a file.

        Args:
            content: of the whole file.
            name: for messages.

        Raises:
            ImageFileError, MissingExtraError: as `open`.
        """
        require_pydicom()
        return cls._parse(BytesIO(content), name)

    @classmethod
    def _parse(cls, source: BinaryIO, file: Path) -> "DicomFrames":
        with _readable(file):
            if not is_dicom(source.read(HEAD_BYTES)):
                raise ImageFileError(f"{file} is not a DICOM file. Give an image or a study.")
            return cls(_read_dataset(source, file), file)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_levels": {}}  # functions, which are made again

    def __len__(self) -> int:
        """Number of frames that are there and whole."""
        return self._pixels.frames

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._path

    @property
    def original_hw(self) -> tuple[int, int]:
        """(H, W) of every frame, pixels."""
        return self._pixels.hw

    @property
    def notes(self) -> tuple[Note, ...]:
        """What a user should know of the file: frames that are missing, elements that were passed
        over. What concerns the size of pixels: `spacing_notes`."""
        return tuple(self._notes)

    @property
    def regions(self) -> tuple[UltrasoundRegion, ...]:
        """Parts of the image, as the device lists them."""
        return self._regions

    @property
    def dataset(self) -> "Dataset":
        """All of the file, with what identifies the patient."""
        return self._dataset

    @property
    def frame_seconds(self) -> tuple[float, ...]:
        """When each frame was taken, from the first one's time; empty where the file does not say.

        By the vector of frame times unless the file points to a constant one, then by rates.
        """
        with _readable(self._path):  # elements are decoded when they are asked for
            return self._frame_seconds()

    def _frame_seconds(self) -> tuple[float, ...]:
        pointer = self._dataset.get("FrameIncrementPointer")
        is_constant = pointer is not None and _FRAME_TIME in numbers_of(pointer)
        steps = numbers_of(self._dataset.get("FrameTimeVector"))
        # Of a file that was cut off, the vector goes on.
        if 1 < len(self) <= len(steps) and min(steps) >= 0 and not is_constant:
            steps = steps[: len(self)]
            return tuple((np.cumsum(steps) - steps[0]).astype(float) * _SECONDS)
        for keyword in ("FrameTime", *_RATES):
            values = numbers_of(self._dataset.get(keyword))
            if len(values) == 1 and values[0] > 0:
                step = values[0] * _SECONDS if keyword == "FrameTime" else 1 / values[0]
                return tuple(index * step for index in range(len(self)))
        return ()

    def spacing_in(self, box: tuple[float, float, float, float]) -> PixelSpacing | None:
        """The size of pixels in a box, XYXY, pixels of the frame.

        In this order: the two-dimensional ultrasound region that holds all of the box, tissue
        before flow; Pixel Measures of an enhanced image; Pixel Spacing. Where regions are listed,
        nothing else counts. Pixel Aspect Ratio alone gives a spacing in the unit "px".

        Returns:
            None where it is not known: the box is in no region or in several that differ.
        """
        return self._scale.find(box)[0]

    def spacing_notes(self, box: tuple[float, float, float, float]) -> tuple[Note, ...]:
        """Why the size of pixels in a box is not known, implausible, or which of several was
        taken."""
        return self._scale.find(box)[1]

    def read(self, index: int) -> GreyFrame:
        """Decode a frame.

        Colour becomes grey by 0.299 R + 0.587 G + 0.114 B. Grey values go through the modality's
        and the first usable window's or table's transformation, then from the full range of its
        output to 8 bits; MONOCHROME1 is inverted.

        Args:
            index: from 0.

        Returns:
            (H, W), uint8.

        Raises:
            ImageFileError: if there is no such frame, or it cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise ImageFileError(
                f"{self._path} has {len(self)} frames, from 0 to {len(self) - 1}; there is no "
                f"frame {index}."
            )
        import cv2

        with _readable(self._path):
            frame = self._pixels.read(index)
            if frame.space in ("grey", "palette"):
                grey = self._levels_of(frame.range, frame.space, index)(frame.values)
            else:
                grey = np.asarray(cv2.cvtColor(_rgb(frame), cv2.COLOR_RGB2GRAY), np.uint8)
        if grey.shape != self.original_hw:
            raise ImageFileError(
                f"{self._path} has a frame of {grey.shape[1]} x {grey.shape[0]} pixels, expected "
                f"{self.original_hw[1]} x {self.original_hw[0]}. Export it again."
            )
        return np.ascontiguousarray(grey)

    def read_colour(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Decode a frame for the eye: (H, W, 3), RGB; None of one in grey or with a palette.

        Raises:
            ImageFileError: as `read`.
        """
        if self._pixels.space in ("grey", "palette"):
            return None
        with _readable(self._path):
            return _rgb(self._pixels.read(index))

    def _levels_of(self, stored: StoredRange, space: Space, index: int) -> GreyLevels:
        """The grey levels of stored values; only frames of enhanced images have their own."""
        key = (stored, space)
        if key in self._levels:
            return self._levels[key]
        big_endian = self._pixels.is_big_endian
        if space == "palette":
            palette = palette_pipeline(self._dataset, stored, is_big_endian=big_endian)
            if palette is None:
                raise ImageFileError(
                    f"{self._path} has a palette whose tables are missing or unusable. Export it "
                    "as RGB."
                )
            levels = palette
        else:
            levels = grey_pipeline(
                pixel_elements(self._dataset, index),
                stored,
                is_big_endian=big_endian,
                is_inverted=self._pixels.photometric == "MONOCHROME1",
            )
        if "PerFrameFunctionalGroupsSequence" not in self._dataset:
            self._levels[key] = levels
        return levels


def _rgb(frame: StoredFrame) -> npt.NDArray[np.uint8]:
    """(H, W, 3), 8 bits, of a frame in colour."""
    import cv2

    pixels = np.ascontiguousarray(to_8_bits(frame.values, frame.range.bits))  # (H, W, 3)
    if frame.space == "YBR_PARTIAL":  # 16 to 235 and 240 instead of 0 to 255 (C.7.6.3.1.2)
        levels = np.arange(256)
        luma = np.clip(np.rint((levels - 16) * (255 / 219)), 0, 255).astype(np.uint8)
        chroma = np.clip(np.rint((levels - 128) * (255 / 224) + 128), 0, 255).astype(np.uint8)
        pixels = np.dstack([luma[pixels[..., 0]], chroma[pixels[..., 1]], chroma[pixels[..., 2]]])
    if frame.space != "RGB":
        y_cr_cb = pixels[..., [0, 2, 1]]
        pixels = np.asarray(cv2.cvtColor(y_cr_cb, cv2.COLOR_YCrCb2RGB), np.uint8)
    return pixels


def _read_dataset(source: BinaryIO, path: Path) -> "Dataset":
    """All of a file; of compressed pixel data that is cut off, what there is."""
    from pydicom import dcmread

    _check_inflated_size(source, path)
    source.seek(0)
    dataset = dcmread(source, force=True)
    dataset.buffer = None  # the whole file once more
    if "PixelData" in dataset:
        return dataset
    source.seek(0)
    head = dcmread(source, force=True, stop_before_pixels=True)
    rest = source.read()
    if rest[:4] == b"\xe0\x7f\x10\0" and rest[4:6] in (b"OB", b"OW"):
        head.add_new("PixelData", "OB", rest[12:])
        head["PixelData"].is_undefined_length = True
    return head


def _check_inflated_size(source: BinaryIO, path: Path) -> None:
    """Refuse a deflated file that expands to more than is accepted, without expanding it."""
    source.seek(0)
    head = source.read(4096)
    start = _PREAMBLE_BYTES + len(_PREFIX) if head[_PREAMBLE_BYTES:HEAD_BYTES] == _PREFIX else 0
    if not head[start:].startswith(b"\2\0\0\0UL\4\0") or b"1.2.840.10008.1.2.1.99" not in head:
        return
    source.seek(start + 12 + int.from_bytes(head[start + 8 : start + 12], "little"))
    inflating, size, content = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
    while size <= _MAX_INFLATED_BYTES:
        content = inflating.unconsumed_tail or source.read(1 << 20)
        if not content or inflating.eof:
            return
        size += len(inflating.decompress(content, 1 << 22))
    raise ImageFileError(
        f"{path} is deflated and expands to more than {_MAX_INFLATED_BYTES} bytes. Export it "
        "uncompressed, in parts."
    )


def text_of(dataset: "Dataset", keyword: str) -> str:
    """An element as text, without the padding of the file; empty where there is none."""
    from pydicom.dataelem import RawDataElement

    if keyword.endswith("UID") and keyword in dataset:
        raw = dataset.get_item(keyword)
        if isinstance(raw, RawDataElement):  # decoded, a wrong one is quoted in pydicom's log
            return (raw.value or b"").decode("ascii", "replace").strip("\0 ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values of the file
        value = dataset.get(keyword)
    values = value if isinstance(value, MutableSequence) else [value]
    return "\\".join("" if each is None else str(each).strip("\0 ") for each in values)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes pydicom raise, as one clear error without the file's
    content."""
    try:
        with warnings.catch_warnings():
            # They quote values of the file.
            warnings.simplefilter("ignore")
            yield
    except ImageFileError:
        raise
    except MemoryError as err:
        raise ImageFileError(
            f"{path} needs more memory than there is. Export fewer frames."
        ) from err
    except OSError as err:
        raise ImageFileError(f"{path} cannot be read: {err.strerror or 'it is damaged'}.") from err
    # Decoders of several packages fail on damaged data in their own ways.
    except Exception as err:  # noqa: BLE001
        raise ImageFileError(
            f"{path} is damaged or not whole: its image cannot be decoded ({type(err).__name__}). "
            "Copy it again, or export it uncompressed."
        ) from None
