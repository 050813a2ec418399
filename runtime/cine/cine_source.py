"""Frames of a cine: a video file, a DICOM study, a folder of images, or a camera."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from samus_edge.errors import ImageFileError
from samus_edge.runtime.cine.lesion_tracker import Box
from samus_edge.runtime.dicom.dicom_frames import is_dicom_file
from samus_edge.runtime.images.image_io import MAX_IMAGE_PIXELS, GreyFrame, read_image
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_frames import DicomFrames

__all__ = ["CineFrame", "CineSource", "open_cine"]

_CAMERA = re.compile(r"camera(?::(\d{1,2}))?")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_MOST_FRAMES_PER_SECOND = 1000.0


@dataclass(frozen=True, eq=False)
class CineFrame:
    """A frame and when it was taken.

    Attributes:
        index: from 0.
        seconds: since the first frame; None where the source does not say.
        image: (H, W), uint8, grey.
    """

    index: int
    seconds: float | None
    image: GreyFrame


class CineSource(Protocol):
    """Frames of one size, in order. To be closed."""

    @property
    def name(self) -> str:
        """Path, or "camera:0"."""
        ...

    @property
    def is_live(self) -> bool:
        """Whether frames come whether they are taken or not."""
        ...

    @property
    def frame_count(self) -> int | None:
        """As the source says; None where it does not."""
        ...

    @property
    def frames_per_second(self) -> float | None:
        """As the source says; None where it does not."""
        ...

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        """The size of pixels in a box; None where the source does not say."""
        ...

    def __iter__(self) -> Iterator[CineFrame]:
        """The frames.

        Raises:
            ImageFileError: if one cannot be read, or has another size than the first.
        """
        ...

    def close(self) -> None:
        """Let files and devices go."""
        ...


def open_cine(source: str) -> CineSource:
    """Open a source of frames.

    Args:
        source: path of a video, of a DICOM file or of a folder of images; or "camera", or
            "camera:N" for a camera other than the first.

    Returns:
        An iterable of frames, to be closed.

    Raises:
        ImageFileError: if it is missing, or has no frames that can be read.
        MissingExtraError: for a DICOM file without pydicom.

    Example:
        >>> cine = open_cine("tests/assets/frames")
        >>> cine.frame_count
        20
        >>> cine.close()
    """
    camera = _CAMERA.fullmatch(source)
    path = Path(source)
    if camera is not None and not path.exists():
        return _Video(int(camera[1] or 0), f"camera:{camera[1] or 0}")
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise ImageFileError(
            f"{source} is neither a file nor a folder. Give a video, a DICOM file, a folder of "
            "images, or camera:0."
        )
    if is_dicom_file(path):
        from samus_edge.runtime.dicom.dicom_frames import DicomFrames

        return _Study(DicomFrames.open(path))
    return _Video(str(path), str(path))


class _Video:
    """A video file or a camera, by OpenCV."""

    def __init__(self, source: str | int, name: str) -> None:
        import cv2

        self._name, self._is_live = name, isinstance(source, int)
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            what = (
                "cannot be opened as a camera"
                if self._is_live
                else "is not a video that can be read"
            )
            raise ImageFileError(f"{name} {what}. Try another, or export it as MP4 or AVI.")
        width, height = (
            self._capture.get(which)
            for which in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > MAX_IMAGE_PIXELS:
            self._capture.release()
            raise ImageFileError(
                f"{name} has frames of {width:g} x {height:g} pixels, more than the limit of "
                f"{MAX_IMAGE_PIXELS}. Scale it down."
            )

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_live(self) -> bool:
        return self._is_live

    @property
    def frame_count(self) -> int | None:
        import cv2

        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 and not self._is_live else None

    @property
    def frames_per_second(self) -> float | None:
        import cv2

        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        return rate if 0 < rate <= _MOST_FRAMES_PER_SECOND else None

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        return None

    def __iter__(self) -> Iterator[CineFrame]:
        import cv2

        rate, index = self.frames_per_second, 0
        shape: tuple[int, ...] | None = None
        while True:
            is_read, image = self._capture.read()
            if not is_read:
                break
            grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            shape = _same_shape(self._name, index, grey.shape, shape)
            yield CineFrame(
                index, None if rate is None else index / rate, np.asarray(grey, np.uint8)
            )
            index += 1
        if index == 0:
            raise ImageFileError(f"{self._name} has no frame that can be read. Export it again.")

    def close(self) -> None:
        self._capture.release()


class _Study:
    """A DICOM file."""

    def __init__(self, frames: "DicomFrames") -> None:
        self._frames = frames

    @property
    def name(self) -> str:
        return str(self._frames.path)

    @property
    def is_live(self) -> bool:
        return False

    @property
    def frame_count(self) -> int | None:
        return len(self._frames)

    @property
    def frames_per_second(self) -> float | None:
        seconds = self._frames.frame_seconds
        return (len(seconds) - 1) / seconds[-1] if len(seconds) > 1 and seconds[-1] > 0 else None

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        return self._frames.spacing_in(box)

    def __iter__(self) -> Iterator[CineFrame]:
        seconds = self._frames.frame_seconds
        for index in range(len(self._frames)):
            yield CineFrame(index, seconds[index] if seconds else None, self._frames.read(index))

    def close(self) -> None:
        pass


class _Folder:
    """A folder of images, in the order of the numbers in their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = sorted(
            (
                path
                for path in folder.iterdir()
                if path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith(".")
            ),
            key=_natural_order,
        )
        if not self._paths:
            raise ImageFileError(
                f"{folder} holds no images. Give a folder of PNG, JPEG, BMP or TIFF files."
            )

    @property
    def name(self) -> str:
        return str(self._folder)

    @property
    def is_live(self) -> bool:
        return False

    @property
    def frame_count(self) -> int | None:
        return len(self._paths)

    @property
    def frames_per_second(self) -> float | None:
        return None

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        return None

    def __iter__(self) -> Iterator[CineFrame]:
        shape: tuple[int, ...] | None = None
        for index, path in enumerate(self._paths):
            image = read_image(path)
            shape = _same_shape(str(path), index, image.shape, shape)
            yield CineFrame(index, None, image)

    def close(self) -> None:
        pass


def _same_shape(
    name: str, index: int, shape: tuple[int, ...], first: tuple[int, ...] | None
) -> tuple[int, ...]:
    if first is not None and shape != first:
        raise ImageFileError(
            f"{name}: frame {index} is {shape[1]} x {shape[0]}, the first is {first[1]} x "
            f"{first[0]}. A cine has one size."
        )
    return shape


def _natural_order(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", os.fspath(path.name))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
