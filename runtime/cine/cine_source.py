"""Frames of a file in any order, or of a cine one after the other: from an image, a DICOM file, a
video, a folder of images, or a camera."""

import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, ImageFileError, OutputFileError
from samus_edge.runtime.cine.lesion_tracker import Box
from samus_edge.runtime.dicom.dicom_frames import HEAD_BYTES, is_dicom
from samus_edge.runtime.dicom.spacing import SHAPE_TOLERANCE, shape_note
from samus_edge.runtime.images.image_io import (
    MAX_FILE_PIXELS,
    GreyFrame,
    decode_colour,
    decode_image,
    depth_of_series,
    is_image,
    is_video,
    may_have_colour,
    page_count,
    page_seconds,
    read_image,
    read_image_file,
)
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing
from samus_edge.runtime.notes import Note

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_frames import DicomFrames

_CAMERA = re.compile(r"camera(?::(\d{1,2}))?")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_MAX_FRAMES_PER_SECOND = 1000.0
MAX_VIDEO_BYTES = 1 << 29
"""Of the decoded frames of a video that is kept in memory."""

_NO_SPACING = Note(
    "spacing_unknown",
    "info",
    "Sizes are in pixels: images and videos that are not DICOM do not say how large a pixel is.",
)

FileKind: TypeAlias = Literal["image", "dicom", "video"]
Kind: TypeAlias = Literal[FileKind, "folder", "camera"]


@dataclass(frozen=True, eq=False)
class CineFrame:
    """A frame and when it was taken.

    Attributes:
        index: Position in the source, from 0.
        seconds: Time since the first frame; None where the source does not say.
        image: (H, W), uint8, grey.
    """

    index: int
    seconds: float | None
    image: GreyFrame


class CineSource(ABC):
    """Frames of one size, in order. To be closed.

    Attributes:
        name: Path, "camera:0", or what the caller calls it.
        kind: What it is.
        frame_count: As the source says; None where it does not.
        frames_per_second: As the source says; None where it does not.
        study: The DICOM file; None for another source.
        pixel_shape: Of a video whose pixels are not square.
        notes: What a user should know of the file; of a video, after its last frame.
    """

    study: "DicomFrames | None" = None
    pixel_shape: PixelSpacing | None = None

    def __init__(
        self, name: str, kind: Kind, frame_count: int | None, frames_per_second: float | None = None
    ) -> None:
        self.name, self.kind = name, kind
        self.frame_count, self.frames_per_second = frame_count, frames_per_second
        self.notes: tuple[Note, ...] = () if self.study is None else self.study.notes

    @property
    def is_live(self) -> bool:
        """Whether frames come whether they are taken or not."""
        return self.kind == "camera"

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        """The size of pixels in a box, or their shape alone; None where the source says neither."""
        return self.pixel_shape if self.study is None else self.study.spacing_in(box)

    def spacing_notes(self, box: Box) -> tuple[Note, ...]:
        """What a user should know of the size of pixels in a box."""
        return (_NO_SPACING,) if self.study is None else self.study.spacing_notes(box)

    @abstractmethod
    def __iter__(self) -> Iterator[CineFrame]:
        """The frames.

        Raises:
            ImageFileError: if one cannot be read, or has another size than the first.
        """

    def part(self, start: int, count: int | None) -> Iterator[CineFrame]:
        """Frames from a first one on, `count` at most; errors as of all."""
        return islice(self, start, None if count is None else start + count)

    def close(self) -> None:  # noqa: B027  # most have nothing open
        """Let files and devices go."""


class _Pages(Sequence[GreyFrame]):
    """The pages of an image file, decoded as they are read."""

    def __init__(self, content: bytes, name: Path, count: int) -> None:
        self._content, self._name, self._count = content, name, count
        # One scale for all pages of 16 bits.
        self._depth = depth_of_series((content, name, page) for page in range(count))
        self._first = decode_image(content, name, depth=self._depth)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> GreyFrame: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[GreyFrame]: ...

    def __getitem__(self, index: int | slice) -> GreyFrame | Sequence[GreyFrame]:
        if isinstance(index, slice):
            return [self[each] for each in range(self._count)[index]]
        if index == 0:
            return self._first
        page = decode_image(self._content, self._name, depth=self._depth, page=index)
        _same_shape(str(self._name), index, page.shape, self._first.shape)
        return page

    @property
    def nbytes(self) -> int:
        """Of the file, and the page that is kept."""
        return len(self._content) + self._first.nbytes


class FileFrames(CineSource):
    """An image, a DICOM file or a video in memory, whose frames are read in any order.

    Args:
        name: For messages.
        kind: What it is.
        frames: Of an image or a video, at least one.
        seconds: Of a video or an animated image, the time of each frame, where it says.
        frames_per_second: Of a video.
        study: A DICOM file, which has its own frames.
        content: Of an image that may have colour, since its frames are grey.
    """

    kind: FileKind

    def __init__(
        self,
        name: str,
        kind: FileKind,
        frames: Sequence[GreyFrame] = (),
        *,
        seconds: Sequence[float] = (),
        frames_per_second: float | None = None,
        study: "DicomFrames | None" = None,
        content: bytes = b"",
    ) -> None:
        self._frames, self.study, self._content = frames, study, content
        self._seconds = seconds
        if study is not None:
            self._seconds = seconds = study.frame_seconds
            if len(seconds) > 1 and seconds[-1] > 0:
                frames_per_second = (len(seconds) - 1) / seconds[-1]
        super().__init__(name, kind, len(self), frames_per_second)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._frames) if self.study is None else len(self.study)

    @property
    def original_hw(self) -> tuple[int, int]:
        """(H, W) of every frame, pixels."""
        if self.study is not None:
            return self.study.original_hw
        height, width = self._frames[0].shape
        return height, width

    @cached_property
    def memory_bytes(self) -> int:
        """What its pixels take, as they are kept."""
        if self.study is not None:  # with elements of makers, which may be larger than the pixels
            values = (element.value for element in self.study.dataset.values())
            return sum(len(value) for value in values if isinstance(value, bytes))
        if isinstance(self._frames, _Pages):
            return self._frames.nbytes
        return len(self._content) + sum(frame.nbytes for frame in self._frames)

    def read(self, index: int) -> GreyFrame:
        """A frame, (H, W), uint8.

        Raises:
            BadArgumentError: if there is no such frame of an image or a video.
            ImageFileError: if a DICOM file has no such frame, or it cannot be decoded.
        """
        if self.study is not None:
            return self.study.read(index)
        if not 0 <= index < len(self._frames):
            raise BadArgumentError(
                f"{self.name} is one image and has no frame {index}. Leave the frame out."
                if len(self._frames) == 1
                else f"{self.name} has frames 0 to {len(self._frames) - 1} and no frame {index}."
            )
        return self._frames[index]

    @property
    def is_late(self) -> bool:
        """Whether frames are decoded when they are read."""
        return self.study is not None or isinstance(self._frames, _Pages)

    @property
    def may_have_colour(self) -> bool:
        """Whether `read_colour` may find any; of a video it does not."""
        return bool(self._content) or self.study is not None

    def read_colour(self, index: int) -> npt.NDArray[np.uint8] | None:
        """A frame for the eye: (H, W, 3), RGB; None of one that is grey. Errors as of `read`."""
        if self.study is not None:
            return self.study.read_colour(index)
        return decode_colour(self._content, Path(self.name), page=index) if self._content else None

    def seconds_of(self, index: int) -> float | None:
        """When a frame was taken, from the first one's time; None where the source does not say."""
        return self._seconds[index] if self._seconds else None

    def __iter__(self) -> Iterator[CineFrame]:
        return self.part(0, None)

    def part(self, start: int, count: int | None) -> Iterator[CineFrame]:
        """As of any cine; those before the first are not decoded."""
        stop = len(self) if count is None else min(len(self), start + count)
        for index in range(start, stop):
            yield CineFrame(index, self.seconds_of(index), self.read(index))


def open_frames(source: Path | bytes, name: str = "", *, max_video_frames: int = 0) -> FileFrames:
    """Open an image or a DICOM file, or a short video, to read frames in any order.

    Args:
        source: Path or content of a file.
        name: For messages; "" for the path.
        max_video_frames: A video of at most so many frames is read into memory; 0 refuses videos.

    Raises:
        ImageFileError: if it is none of those, damaged or too large.
        MissingExtraError: for a DICOM file without pydicom.
    """
    path = Path(name) if isinstance(source, bytes) else source
    head = source[:HEAD_BYTES] if isinstance(source, bytes) else head_of(source)
    if is_dicom(head):
        from samus_edge.runtime.dicom.dicom_frames import DicomFrames

        study = (
            DicomFrames.from_bytes(source, path)
            if isinstance(source, bytes)
            else DicomFrames.open(path)
        )
        return FileFrames(str(path), "dicom", study=study)
    if max_video_frames and is_video(head):
        return _frames_of_video(source, str(path), max_video_frames)
    content = source if isinstance(source, bytes) else read_image_file(path)
    pages = page_count(content, path)
    colour = content if may_have_colour(content, path) else b""
    if pages == 1:
        return FileFrames(str(path), "image", [decode_image(content, path)], content=colour)
    seconds = page_seconds(content, path)
    rate = (pages - 1) / seconds[-1] if seconds else None
    shown = _Pages(content, path, pages)
    frames = FileFrames(
        str(path), "image", shown, seconds=seconds, frames_per_second=rate, content=colour
    )
    text = f"The file has {pages} pages, which are frames 0 to {pages - 1}."
    frames.notes = (Note("several_pages", "info", text),)
    return frames


def head_of(path: Path) -> bytes:
    """The first bytes of a regular file; none of what cannot be read, or would be waited for."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _frames_of_video(source: Path | bytes, name: str, max_frames: int) -> FileFrames:
    """All frames of a video."""
    if isinstance(source, Path):
        return _kept(_Video(str(source), name), max_frames)
    # OpenCV reads videos from files alone.
    try:
        with tempfile.NamedTemporaryFile(suffix=".video") as file:
            file.write(source)
            file.flush()
            return _kept(_Video(file.name, name), max_frames)
    except OSError as err:
        raise OutputFileError(
            f"{name} cannot be kept in a temporary file ({err.strerror or err}). "
            f"Make room in {tempfile.gettempdir()}."
        ) from err


def _kept(video: "_Video", max_frames: int) -> FileFrames:
    frames: list[GreyFrame] = []
    seconds: list[float] = []
    memory_bytes = 0
    try:
        for frame in video:
            memory_bytes += frame.image.nbytes
            if memory_bytes > MAX_VIDEO_BYTES or len(frames) == max_frames:
                raise ImageFileError(
                    f"{video.name} has more than {max_frames} frames, or more than "
                    f"{MAX_VIDEO_BYTES >> 20} MB of them. Cut out the part that matters, or scale "
                    "it down."
                )
            frames.append(frame.image)
            seconds += [] if frame.seconds is None else [frame.seconds]
    finally:
        video.close()
    kept = FileFrames(
        video.name, "video", frames, seconds=seconds, frames_per_second=video.frames_per_second
    )
    kept.notes, kept.pixel_shape = video.notes, video.pixel_shape
    return kept


def open_cine(source: str) -> CineSource:
    """Open a source of frames.

    Args:
        source: Path of a video, of a DICOM file, of a folder of images or of one image; or
            "camera", or "camera:N" for a camera other than the first.

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
    head = head_of(path)
    return open_frames(path) if is_dicom(head) or is_image(head) else _Video(source, source)


class _Video(CineSource):
    """A video file or a camera, by OpenCV."""

    def __init__(self, source: str | int, name: str) -> None:
        import cv2

        is_live = isinstance(source, int)
        container = "" if isinstance(source, int) else _check_video_file(source, name)
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise ImageFileError(
                f"{name} cannot be opened as a camera. Connect it, or try another (camera:1)."
                if is_live
                else f"{name} is not a video that can be read. Export it as MP4 or AVI."
            )
        width, height, count, rate = (
            float(self._capture.get(which))
            for which in (
                *(cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT),
                *(cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS),
            )
        )
        if width * height > MAX_FILE_PIXELS:
            self._capture.release()
            raise ImageFileError(
                f"{name} has frames of {width:g} x {height:g} pixels, more than the limit of "
                f"{MAX_FILE_PIXELS}. Scale it down."
            )
        # Other containers do not count: OpenCV makes a number of their duration and rate.
        is_counted = count > 0 and container in ("MP4", "AVI")
        # Edit lists of MP4 may leave out frames that it counts.
        self._is_counted_well = container == "AVI"
        super().__init__(
            name,
            "camera" if is_live else "video",
            int(count) if is_counted else None,
            rate if 0 < rate <= _MAX_FRAMES_PER_SECOND else None,
        )
        self._is_cut_off = isinstance(source, str) and _is_cut_off(source, container)
        self._read_pixel_shape()

    def _read_pixel_shape(self) -> None:
        """By the sample aspect ratio, width to height, of the frames as they are stored."""
        import cv2

        ratio = [self._capture.get(which) for which in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN)]
        turned = float(self._capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180 == 90
        width, height = (float(each) for each in (ratio[::-1] if turned else ratio))
        if min(width, height) <= 0 or abs(height / width - 1) <= SHAPE_TOLERANCE:
            return
        self.pixel_shape = PixelSpacing(height / width, 1.0, "sample aspect ratio", unit="px")
        self.notes = (shape_note(self.pixel_shape),)

    def __iter__(self) -> Iterator[CineFrame]:
        import cv2

        rate, index = self.frames_per_second, 0
        shape: tuple[int, ...] | None = None
        first_ms, last = 0.0, -1.0
        while True:
            is_read, image = self._capture.read()
            if not is_read:
                break
            grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            shape = _same_shape(self.name, index, grey.shape, shape)
            seconds = None if rate is None else index / rate
            if self.kind == "video":
                # The container's own time: frames need not be evenly spaced.
                at_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
                first_ms = at_ms if index == 0 else first_ms
                if index == 0 or (at_ms - first_ms) / 1000 > last >= 0:
                    seconds = last = (at_ms - first_ms) / 1000
                else:  # it stands still: the container has none
                    last = -1.0
            yield CineFrame(index, seconds, np.asarray(grey, np.uint8))
            index += 1
        if index == 0:
            raise ImageFileError(f"{self.name} has no frame that can be read. Export it again.")
        if self._is_cut_off or (self._is_counted_well and index < (self.frame_count or 0)):
            count = "" if self.frame_count is None else f" of {self.frame_count}"
            text = f"The video is truncated: {index}{count} frames could be read."
            self.notes = (*self.notes, Note("cine_truncated", "warning", text))

    def close(self) -> None:
        self._capture.release()


def _check_video_file(path: str, name: str) -> str:
    """The kind of container: MP4, AVI, Matroska, or "" for another."""
    if os.path.getsize(path) == 0:
        raise ImageFileError(f"{name} is empty. Copy or export the video again.")
    try:
        path.encode()
    except UnicodeEncodeError as err:  # at which OpenCV crashes
        raise ImageFileError(
            f"{name} has bytes in its path that are not UTF-8, which OpenCV cannot open. Rename it."
        ) from err
    head = head_of(Path(path))
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "MP4"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "Matroska"
    return "AVI" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else ""


def _is_cut_off(path: str, container: str) -> bool:
    """Whether a file ends before the last of the boxes (MP4) or elements (Matroska) that it is made
    of."""
    length_of = {"MP4": _length_of_box, "Matroska": _length_of_element}.get(container)
    size, at = os.path.getsize(path), 0
    if length_of is None:
        return False
    with open(path, "rb") as file:
        while at + 16 <= size:
            file.seek(at)
            length = length_of(file.read(16))
            if length is None:
                return False
            at += length
    return at > size


def _length_of_box(head: bytes) -> int | None:
    """Of an MP4 box; None of one that goes on to the end (ISO/IEC 14496-12, 4.2)."""
    length = int.from_bytes(head[:4], "big")
    if length == 1:
        length = int.from_bytes(head[8:16], "big")
    return max(length, 8) if length else None


def _length_of_element(head: bytes) -> int | None:
    """Of an EBML element, whose number and length say by their first bits how long they are (RFC
    8794, 4 and 5); None of one that does not say its length."""
    width = 9 - head[0].bit_length()
    length = head[width:]
    bits = 7 * (9 - length[0].bit_length())
    value = int.from_bytes(length[: bits // 7], "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else width + bits // 7 + value


class _Folder(CineSource):
    """A folder of images, in the order of the numbers in their names."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(
            (
                path
                for path in folder.iterdir()
                if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
            ),
            key=_natural_order,
        )
        if not self._paths:
            raise ImageFileError(
                f"{folder} holds no images. Give a folder of PNG, JPEG, BMP, TIFF or WebP files."
            )
        super().__init__(str(folder), "folder", len(self._paths))

    def __iter__(self) -> Iterator[CineFrame]:
        shape: tuple[int, ...] | None = None
        # One scale for all: a frame that happens to be dark is dark.
        depth = depth_of_series((read_image_file(path), path, 0) for path in self._paths)
        for index, path in enumerate(self._paths):
            image = read_image(path, depth=depth)
            shape = _same_shape(str(path), index, image.shape, shape)
            yield CineFrame(index, None, image)


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
