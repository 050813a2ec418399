"""Images that clients work on."""

import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from samus_edge.errors import ImageFileError
from samus_edge.runtime.cine.lesion_tracker import Box
from samus_edge.runtime.dicom.dicom_frames import is_dicom, require_pydicom
from samus_edge.runtime.images.image_io import GreyFrame, decode_image
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing
from samus_edge.runtime.prediction import Embedding
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.server.problem import Problem

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_frames import DicomFrames

__all__ = [
    "Session",
    "SessionStore",
    "StillImage",
    "UploadedImage",
    "open_upload",
]


_NAME = Path("the image")
_VIDEO_SIGNATURES = ((4, b"ftyp"), (0, b"RIFF"), (0, b"\x1aE\xdf\xa3"))
"""Where and what: MP4 and MOV, AVI, Matroska and WebM."""
MAX_VIDEO_BYTES = 1 << 29
"""Of a video's frames, decoded."""


class UploadedImage(Protocol):
    """Frames of one size."""

    @property
    def kind(self) -> str:
        """ "image", "dicom" or "video"."""
        ...

    @property
    def frame_count(self) -> int: ...

    @property
    def original_hw(self) -> tuple[int, int]:
        """(H, W) of every frame, pixels."""
        ...

    @property
    def frames_per_second(self) -> float | None: ...

    @property
    def study(self) -> "DicomFrames | None":
        """The DICOM file."""
        ...

    @property
    def memory_bytes(self) -> int:
        """That it holds."""
        ...

    def read(self, index: int) -> GreyFrame:
        """A frame."""
        ...

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        """The size of pixels in a box, as the file says."""
        ...


def open_upload(content: bytes, max_frames: int) -> UploadedImage:
    """Open what was sent.

    Args:
        content: of the file.
        max_frames: of a video; more are an error, since its frames are kept in memory.

    Raises:
        ImageFileError: if it is none of what can be read.
        MissingExtraError: for DICOM without pydicom.
    """
    if is_dicom(content):
        require_pydicom()
        from samus_edge.runtime.dicom.dicom_frames import DicomFrames

        return _Study(DicomFrames.from_bytes(content, _NAME), len(content))
    if any(content[at : at + len(text)] == text for at, text in _VIDEO_SIGNATURES):
        return _Video(content, max_frames)
    return StillImage(decode_image(content, _NAME))


class StillImage:
    """One frame.

    Args:
        frame: (H, W), uint8, grey.
    """

    kind = "image"
    frame_count = 1
    frames_per_second: float | None = None
    study: "DicomFrames | None" = None

    def __init__(self, frame: GreyFrame) -> None:
        self._frame = frame
        self.memory_bytes = frame.nbytes
        self.original_hw = (frame.shape[0], frame.shape[1])

    def read(self, index: int) -> GreyFrame:
        return self._frame

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        return None


class _Study:
    kind = "dicom"

    def __init__(self, frames: "DicomFrames", memory_bytes: int) -> None:
        self._frames, self.memory_bytes = frames, memory_bytes
        self.frame_count, self.original_hw = len(frames), frames.original_hw
        seconds = frames.frame_seconds
        self.frames_per_second: float | None = (
            (len(seconds) - 1) / seconds[-1] if len(seconds) > 1 and seconds[-1] > 0 else None
        )
        frames.read(0)  # a file that cannot be decoded is refused now

    @property
    def study(self) -> "DicomFrames | None":
        return self._frames

    def read(self, index: int) -> GreyFrame:
        return self._frames.read(index)

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        return self._frames.spacing_in(box)


class _Video:
    kind = "video"
    study: "DicomFrames | None" = None

    def __init__(self, content: bytes, max_frames: int) -> None:
        from samus_edge.runtime.cine.cine_source import open_cine

        # OpenCV reads videos from files alone; this one is deleted at once.
        with tempfile.NamedTemporaryFile(suffix=".video") as file:
            file.write(content)
            file.flush()
            try:
                source = open_cine(file.name)
            except ImageFileError:
                raise ImageFileError("the video cannot be read. Export it as MP4 or AVI.") from None
            try:
                self._frames: list[GreyFrame] = []
                self.memory_bytes = 0
                for frame in source:
                    self.memory_bytes += frame.image.nbytes
                    if self.memory_bytes > MAX_VIDEO_BYTES:
                        raise ImageFileError(
                            f"the video's frames have more than {MAX_VIDEO_BYTES >> 20} MB. Cut "
                            "out the part that "
                            "matters, or scale it down."
                        )
                    if len(self._frames) == max_frames:
                        raise ImageFileError(
                            f"the video has more than {max_frames} frames. Cut out the part that "
                            "matters."
                        )
                    self._frames.append(frame.image)
            except ImageFileError as err:
                raise ImageFileError(str(err).replace(file.name, "the video")) from None
            finally:
                self.frames_per_second = source.frames_per_second
                source.close()
        self.frame_count = len(self._frames)
        self.original_hw = (self._frames[0].shape[0], self._frames[0].shape[1])

    def read(self, index: int) -> GreyFrame:
        return self._frames[index]

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        return None


_EMBEDDINGS_KEPT = 8


class Session:
    """One image or cine, with what was computed on it.

    Args:
        image: the frames.
    """

    def __init__(self, image: UploadedImage) -> None:
        self.id = secrets.token_urlsafe(16)
        self.image = image
        self._embeddings: OrderedDict[int, Embedding] = OrderedDict()
        self._lock = threading.Lock()

    def frame(self, index: int) -> GreyFrame:
        """A frame.

        Raises:
            Problem: if there is none of that index.
            ImageFileError: if it cannot be decoded.
        """
        if not 0 <= index < self.image.frame_count:
            raise Problem(
                404, f"there is no frame {index}; frames are 0 to {self.image.frame_count - 1}."
            )
        return self.image.read(index)

    def embedding(self, segmenter: Segmenter, index: int) -> tuple[Embedding, bool]:
        """Of a frame, and whether it was there already."""
        with self._lock:
            found = self._embeddings.get(index)
            if found is not None:
                self._embeddings.move_to_end(index)
                return found, True
        made = segmenter.encode(self.frame(index))
        with self._lock:
            self._embeddings[index] = made
            while len(self._embeddings) > _EMBEDDINGS_KEPT:
                self._embeddings.popitem(last=False)
        return made, False

    def spacing_in(self, box: Box) -> PixelSpacing | None:
        """The size of pixels in a box, as the file says."""
        return self.image.spacing_in(box)


class SessionStore:
    """The newest sessions.

    Args:
        most: that are kept.
        seconds: for which one is kept after it was last used.
        max_bytes: that all of them hold; the newest is kept even if it holds more.
        clock: seconds.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        max_bytes: int = 1 << 31,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._max_bytes = max_bytes
        self._sessions: OrderedDict[str, tuple[Session, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            self._sweep()
            return len(self._sessions)

    def add(self, image: UploadedImage) -> Session:
        """Keep an image; the one that was used longest ago goes if there are too many."""
        session = Session(image)
        with self._lock:
            self._sweep()
            self._sessions[session.id] = (session, self._clock())
            while len(self._sessions) > self._most or (
                len(self._sessions) > 1 and self._memory_bytes() > self._max_bytes
            ):
                self._sessions.popitem(last=False)
        return session

    def get(self, name: str) -> Session:
        """A session.

        Raises:
            Problem: if there is none of that name, any more.
        """
        with self._lock:
            self._sweep()
            found = self._sessions.pop(name, None)
            if found is None:
                raise Problem(
                    404, "there is no such image, or it was not used for too long. Send it again."
                )
            self._sessions[name] = (found[0], self._clock())
            return found[0]

    def remove(self, name: str) -> None:
        """Forget a session; one that is not there is forgotten already."""
        with self._lock:
            self._sessions.pop(name, None)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._sessions.clear()

    def _memory_bytes(self) -> int:
        return sum(session.image.memory_bytes for session, _ in self._sessions.values())

    def _sweep(self) -> None:
        oldest = self._clock() - self._seconds
        while self._sessions:
            name, (_, used) = next(iter(self._sessions.items()))
            if used >= oldest:
                return
            del self._sessions[name]
