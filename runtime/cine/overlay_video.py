"""A video of overlays, written frame by frame."""

import os
import tempfile
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import OutputFileError

__all__ = ["VIDEO_SUFFIXES", "OverlayVideo"]

_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
VIDEO_SUFFIXES = tuple(_CODECS)
"""MPEG-4 and Motion JPEG: what OpenCV writes everywhere."""


class OverlayVideo:
    """Writes beside the file and takes its place when it is complete.

    Args:
        path: ends in one of `VIDEO_SUFFIXES`.
        frames_per_second: of the video.

    Raises:
        ValueError: if the suffix is another.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        if path.suffix.lower() not in _CODECS:
            raise ValueError(f"the video must end in {' or '.join(_CODECS)}, got {path}.")
        self._path, self._rate = path, frames_per_second
        self._size_wh: tuple[int, int] | None = None
        self._writer: cv2.VideoWriter | None = None
        self._temporary: Path | None = None

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Add a picture; those after the first are cut or padded to its size.

        Args:
            picture: (H, W, 3), uint8, RGB.

        Raises:
            OutputFileError: if it cannot be written.
        """
        if self._writer is None:
            self._open(picture)
        assert self._writer is not None
        assert self._size_wh is not None
        width, height = self._size_wh
        fitted = np.zeros((height, width, 3), np.uint8)
        rows, columns = min(height, picture.shape[0]), min(width, picture.shape[1])
        fitted[:rows, :columns] = picture[:rows, :columns, ::-1]  # BGR
        self._writer.write(fitted)

    def _open(self, picture: npt.NDArray[np.uint8]) -> None:
        # Codecs take even sizes.
        height, width = (size + size % 2 for size in picture.shape[:2])
        try:
            handle, name = tempfile.mkstemp(
                dir=self._path.absolute().parent, prefix=".", suffix=self._path.suffix
            )
        except OSError as err:
            raise OutputFileError(f"{self._path} cannot be written: {err.strerror}.") from err
        os.close(handle)
        self._temporary = Path(name)
        codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        self._writer = cv2.VideoWriter(name, codec, self._rate, (width, height))
        self._size_wh = (width, height)
        if not self._writer.isOpened():
            self._discard()
            raise OutputFileError(
                f"{self._path} cannot be written: this OpenCV has no encoder for it. Try .avi."
            )

    def close(self) -> None:
        """Put the video in its place; without a frame there is none.

        Raises:
            OutputFileError: if that fails.
        """
        if self._writer is None or self._temporary is None:
            return
        self._writer.release()
        try:
            # As files are that are opened for writing.
            umask = os.umask(0)
            os.umask(umask)
            self._temporary.chmod(0o666 & ~umask)
            self._temporary.replace(self._path)
        except OSError as err:
            self._discard()
            raise OutputFileError(f"{self._path} cannot be written: {err.strerror}.") from err
        self._writer = self._temporary = None

    def _discard(self) -> None:
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        self._writer = self._temporary = None

    def __enter__(self) -> "OverlayVideo":  # noqa: PYI034  # Self is of Python 3.11
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.close()
        elif self._writer is not None:
            self._writer.release()
            self._discard()
