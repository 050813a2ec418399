"""The frames of a DICOM file, decoded one at a time."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from samus_edge.errors import ImageFileError, missing_extra
from samus_edge.runtime.images.image_io import MAX_FILE_BYTES, MAX_IMAGE_PIXELS, GreyFrame
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "HEAD_BYTES",
    "DicomFrames",
    "UltrasoundRegion",
    "is_dicom",
    "is_dicom_file",
    "read_regions",
    "require_highdicom",
    "require_pydicom",
    "spacing_in_box",
]


_PREAMBLE_BYTES = 128
_PREFIX = b"DICM"
HEAD_BYTES = _PREAMBLE_BYTES + len(_PREFIX)
"""Of a file that say whether it is DICOM."""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM; needs `HEAD_BYTES` of it."""
    return head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + len(_PREFIX)] == _PREFIX


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


_SPATIAL_2D = 1  # of Region Spatial Format
_TISSUE = 1  # of Region Data Type
_CENTIMETRES = 3  # of Physical Units
_MM_PER_CM = 10.0


@dataclass(frozen=True)
class UltrasoundRegion:
    """A part of the image.

    Source: DICOM PS3.3, C.8.5.5, US Region Calibration.

    Attributes:
        box: XYXY, pixels, both ends inside.
        is_2d: whether it is a two-dimensional image; else a spectrum, a curve, text.
        is_tissue: whether that shows tissue (B-mode); else flow or something else.
        spacing: size of its pixels; None where the file does not give it in centimetres.
    """

    box: tuple[int, int, int, int]
    is_2d: bool
    is_tissue: bool
    spacing: PixelSpacing | None

    def holds(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a box, XYXY, lies in it; half a pixel may stick out."""
        x1, y1, x2, y2 = self.box
        return (
            box[0] >= x1 - 0.5 and box[1] >= y1 - 0.5 and box[2] <= x2 + 0.5 and box[3] <= y2 + 0.5
        )


def read_regions(dataset: "Dataset", frame_hw: tuple[int, int]) -> tuple[UltrasoundRegion, ...]:
    """The regions that a dataset lists.

    A region that is not inside the frame is left out: the image was scaled or cropped after it was
    made, and what the file says about sizes is not true any more.

    Args:
        dataset: of an image.
        frame_hw: (H, W), pixels.
    """
    found: list[UltrasoundRegion] = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        corners = [
            _number(item, f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")
        ]
        if any(value is None for value in corners):
            continue
        x1, y1, x2, y2 = (int(value) for value in corners if value is not None)
        # The last pixel is inside; some devices write the number of pixels instead.
        if not (0 <= x1 < x2 <= frame_hw[1] and 0 <= y1 < y2 <= frame_hw[0]):
            continue
        found.append(
            UltrasoundRegion(
                (x1, y1, min(x2, frame_hw[1] - 1), min(y2, frame_hw[0] - 1)),
                _number(item, "RegionSpatialFormat") == _SPATIAL_2D,
                _number(item, "RegionDataType") == _TISSUE,
                _spacing(item),
            )
        )
    return tuple(found)


def spacing_in_box(
    regions: Sequence[UltrasoundRegion], box: tuple[float, float, float, float]
) -> PixelSpacing | None:
    """The size of pixels in a box, XYXY.

    Returns:
        That of the two-dimensional regions that hold all of the box; None if there is none, or they
        do not agree.
    """
    spacings = {region.spacing for region in regions if region.is_2d and region.holds(box)}
    return spacings.pop() if len(spacings) == 1 else None


def _spacing(item: "Dataset") -> PixelSpacing | None:
    units = (_number(item, "PhysicalUnitsXDirection"), _number(item, "PhysicalUnitsYDirection"))
    if units != (_CENTIMETRES, _CENTIMETRES):
        return None
    # A delta is negative where the axis points the other way.
    x, y = (_number(item, name) for name in ("PhysicalDeltaX", "PhysicalDeltaY"))
    if not x or not y or not math.isfinite(x * y):
        return None
    return PixelSpacing(row_mm=abs(y) * _MM_PER_CM, column_mm=abs(x) * _MM_PER_CM)


def _number(item: "Dataset", keyword: str) -> float | None:
    """A value that hostile files may hold as anything."""
    value: Any = item.get(keyword)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_MAX_FRAMES = 1 << 20
_SECONDS = 1e-3


class DicomFrames:
    """A single- or multi-frame image in a DICOM file.

    Messages never hold anything of the file but its path, and numbers of its pixels.

    Args:
        dataset: of an image.
        path: for messages.

    Raises:
        ImageFileError: if it is not an image that can be read.
        MissingExtraError: without pydicom.
    """

    def __init__(self, dataset: "Dataset", path: Path) -> None:
        self._dataset, self._path = dataset, path
        height, width = self._integer("Rows"), self._integer("Columns")
        self._frames = self._integer("NumberOfFrames", 1)
        if "PixelData" not in dataset:
            raise ImageFileError(
                f"{path} is a DICOM file without an image. Give one with pixel data."
            )
        if not 0 < height * width <= MAX_IMAGE_PIXELS or not 0 < self._frames <= _MAX_FRAMES:
            raise ImageFileError(
                f"{path} has {self._frames} frames of {width} x {height} pixels; from 1 to "
                f"{MAX_IMAGE_PIXELS} pixels and from 1 frame are accepted."
            )
        self._hw = (height, width)
        self._photometric = str(dataset.get("PhotometricInterpretation", ""))
        if self._photometric not in (*_GREY, *_COLOUR, _PALETTE):
            known = ", ".join((*_GREY, *_COLOUR, _PALETTE))
            raise ImageFileError(
                f"{path} has another photometric interpretation than {known}. Export it as one of "
                "those."
            )
        self._regions = read_regions(dataset, self._hw)

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
        except OSError as err:
            raise ImageFileError(f"{file} cannot be read: {err.strerror}.") from err
        if size > MAX_FILE_BYTES:
            raise ImageFileError(
                f"{file} has {size} bytes, more than the limit of {MAX_FILE_BYTES}. Split it."
            )
        return cls._parse(file, file)

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
    def _parse(cls, source: "Path | BytesIO", file: Path) -> "DicomFrames":
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError

        with _readable(file):
            try:
                dataset = dcmread(source)
            except InvalidDicomError as err:
                raise ImageFileError(
                    f"{file} is not a DICOM file. Give an image or a study."
                ) from err
            return cls(dataset, file)

    def __len__(self) -> int:
        """Number of frames."""
        return self._frames

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._path

    @property
    def original_hw(self) -> tuple[int, int]:
        """(H, W) of every frame, pixels."""
        return self._hw

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
        """When each frame was taken, from the first one's time; empty where the file does not
        say."""
        vector = self._dataset.get("FrameTimeVector")
        if vector is not None and self._frames > 1:
            steps = _numbers(vector)
            if len(steps) == self._frames and all(step >= 0 for step in steps):
                return tuple((np.cumsum(steps) - steps[0]).astype(float) * _SECONDS)
        for keyword in ("FrameTime", "CineRate", "RecommendedDisplayFrameRate"):
            values = _numbers(self._dataset.get(keyword))
            if len(values) == 1 and values[0] > 0:
                step = values[0] * _SECONDS if keyword == "FrameTime" else 1 / values[0]
                return tuple(index * step for index in range(self._frames))
        return ()

    def spacing_in(self, box: tuple[float, float, float, float]) -> PixelSpacing | None:
        """The size of pixels in a box, XYXY, pixels of the frame.

        Ultrasound regions say it; in a file that lists none, Pixel Spacing does.

        Returns:
            None where it is not known: the box is in no region or in several that differ.
        """
        if self._dataset.get("SequenceOfUltrasoundRegions"):
            return spacing_in_box(self._regions, box)
        spacing = _numbers(self._dataset.get("PixelSpacing"))
        if len(spacing) == 2 and all(math.isfinite(value) and value > 0 for value in spacing):
            return PixelSpacing(row_mm=spacing[0], column_mm=spacing[1])
        return None

    def read(self, index: int) -> GreyFrame:
        """Decode a frame.

        Colour becomes grey by 0.299 R + 0.587 G + 0.114 B. Grey values go through the modality's
        and the first window's transformation where the file has them, then from their full range to
        8 bits; MONOCHROME1 is inverted.

        Args:
            index: from 0.

        Returns:
            (H, W), uint8.

        Raises:
            ImageFileError: if there is no such frame, or it cannot be decoded.
        """
        import cv2

        if not 0 <= index < self._frames:
            raise ImageFileError(
                f"{self._path} has {self._frames} frames, from 0 to {self._frames - 1}; there is "
                "no frame "
                f"{index}."
            )
        with _readable(self._path):
            pixels = self._pixels(index)
            if self._photometric in _GREY:
                return self._grey(pixels)
            if self._photometric == _PALETTE:
                from pydicom.pixels.processing import apply_color_lut

                pixels = apply_color_lut(pixels, self._dataset)
                # Palettes have entries of 16 bits, by the standard in their upper ones if 8 are
                # used.
                pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
            if pixels.dtype != np.uint8 or pixels.shape != (*self._hw, 3):
                raise ImageFileError(
                    f"{self._path} has colour frames of {pixels.dtype} {pixels.shape}; 8 bits and "
                    "three samples are accepted. Export it so."
                )
            grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
        return np.asarray(grey, np.uint8)

    def _pixels(self, index: int) -> npt.NDArray[Any]:
        from pydicom.pixels.decoders.base import get_decoder

        syntax = self._dataset.file_meta.TransferSyntaxUID
        try:
            decoder = get_decoder(syntax)
            if not decoder.is_available:
                raise ImageFileError(
                    f"{self._path} is compressed as {syntax.name}, for which no decoder is "
                    "installed. "
                    "Install one: pip install python-gdcm; or export the study uncompressed."
                )
            pixels, _ = decoder.as_array(self._dataset, index=index, raw=False)
        except NotImplementedError as err:
            raise ImageFileError(
                f"{self._path} is compressed in a way that cannot be read ({syntax.name}). Export "
                "it "
                "uncompressed."
            ) from err
        return np.asarray(pixels)

    def _grey(self, pixels: npt.NDArray[Any]) -> GreyFrame:
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

        if pixels.shape != self._hw:
            raise ImageFileError(
                f"{self._path} has grey frames of shape {pixels.shape}, expected {self._hw}. "
                "Export it again."
            )
        dataset = self._dataset
        has_window = "WindowCenter" in dataset or "VOILUTSequence" in dataset
        values = apply_modality_lut(pixels, dataset)
        bits = self._integer("BitsStored", 8)
        is_signed = self._integer("PixelRepresentation", 0) == 1
        low = -(1 << (bits - 1)) if is_signed else 0
        high = low + (1 << bits) - 1
        if has_window:
            values = apply_voi_lut(values, dataset, index=0)
        elif values is not pixels:
            # Rescaled and not windowed: the range that stored values can have, rescaled.
            slope, intercept = (
                float(dataset.get(name, default))
                for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
            )
            ends = sorted((low * slope + intercept, high * slope + intercept))
            low, high = ends[0], ends[1]  # type: ignore[assignment]  # no longer whole numbers
        if values.dtype == np.uint8 and (low, high) == (0, 255):
            grey: npt.NDArray[np.uint8] = values
        else:
            scaled = (values.astype(np.float64) - low) * (255.0 / max(high - low, 1e-12))
            grey = np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8)
        if self._photometric == "MONOCHROME1":
            grey = 255 - grey
        return np.ascontiguousarray(grey)

    def _integer(self, keyword: str, default: int = 0) -> int:
        values = _numbers(self._dataset.get(keyword))
        return int(values[0]) if len(values) == 1 else default


def _numbers(value: Any) -> list[float]:
    """The numbers of an element that hostile files may hold as anything; none if one is no
    number."""
    if value is None:
        return []
    values = (
        [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else value
    )
    try:
        numbers = [float(item) for item in values]
    except (TypeError, ValueError):
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


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
            "Copy it again, export "
            "it uncompressed, or install another decoder: pip install python-gdcm."
        ) from None
