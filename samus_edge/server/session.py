"""Images that clients work on."""

import hashlib
import math
import secrets
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from starlette.exceptions import HTTPException

from samus_edge.jobs.record import FrameRecord
from samus_edge.jobs.track_cine import TrackReport
from samus_edge.runtime.cine.cine_source import FileFrames
from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.prediction import Embedding
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["FollowedLesion", "ReadyFrame", "Session", "SessionStore"]

_EMBEDDINGS_KEPT = 8


class FollowedLesion:
    """What is kept of a lesion that is or was followed.

    Attributes:
        id: Of no other follow.
        report: Frame by frame.
        masks: Of the frames that have one, by index: its shape and its deflated bits.
    """

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.report = TrackReport()
        self._masks: dict[int, tuple[tuple[int, ...], bytes]] = {}

    @property
    def memory_bytes(self) -> int:
        """What its masks take."""
        return sum(len(deflated) for _, deflated in list(self._masks.values()))

    def add(self, record: FrameRecord, mask: npt.NDArray[np.bool_] | None) -> None:
        """Add a frame; a mask is (H, W)."""
        self.report.frames.append(record)
        if mask is not None:
            self._masks[record.frame] = mask.shape, zlib.compress(np.packbits(mask).tobytes(), 1)

    def mask(self, frame: int) -> npt.NDArray[np.bool_] | None:
        """The mask of a frame, (H, W); None where there is none."""
        if frame not in self._masks:
            return None
        shape, deflated = self._masks[frame]
        bits = np.frombuffer(zlib.decompress(deflated), np.uint8)
        return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(np.bool_)


@dataclass(frozen=True, eq=False)
class ReadyFrame:
    """A frame of which nothing has to be decoded any more when it is its turn.

    Attributes:
        index: Of the frame.
        pixels: (H, W), uint8; None where the embedding is enough.
        embedding: None of a frame that is not encoded yet.
    """

    index: int
    pixels: GreyFrame | None
    embedding: Embedding | None


class Session:
    """One image or cine, with what was computed on it.

    Args:
        image: Its frames.
        content: The file that it was read from; kept as its hash and size.

    Attributes:
        followed: The lesion that was last followed through it.
        dicom_files: What was last made DICOM files of, and its segmentation and report.
    """

    def __init__(self, image: FileFrames, content: bytes = b"") -> None:
        self.id = secrets.token_urlsafe(16)
        self.image = image
        self.file_sha256 = hashlib.sha256(content).hexdigest() if content else None
        self.file_bytes = len(content)
        self.followed: FollowedLesion | None = None
        self.dicom_files: tuple[str, tuple[bytes, bytes]] | None = None
        self._embeddings: OrderedDict[int, Embedding] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        """What is kept of it: pixels, and what was computed of them."""
        with self._lock:
            kept = [embedding.tensor for embedding in self._embeddings.values()]
        followed = 0 if self.followed is None else self.followed.memory_bytes
        return self.image.memory_bytes + sum(4 * math.prod(each.shape) for each in kept) + followed

    def frame(self, index: int) -> GreyFrame:
        """A frame.

        Raises:
            HTTPException: if there is none of that index.
            ImageFileError: if it cannot be decoded.
        """
        if not 0 <= index < len(self.image):
            raise HTTPException(
                404, f"there is no frame {index}; frames are 0 to {len(self.image) - 1}."
            )
        return self.image.read(index)

    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """A frame for the eye: (H, W, 3), RGB, of a study or an image in colour, else grey; errors
        as of `frame`."""
        has_it = self.image.may_have_colour and 0 <= index < len(self.image)
        colour = self.image.read_colour(index) if has_it else None
        return self.frame(index) if colour is None else colour

    def ready_frame(
        self, index: int, *, needs_pixels: bool = False, decodes: bool = True
    ) -> ReadyFrame | None:
        """A frame to segment.

        Args:
            index: Of the frame.
            needs_pixels: Whether they are asked for beside the embedding.
            decodes: Whether to decode it, where it has to be.

        Returns:
            None if it has to be decoded, and that is not allowed.

        Raises:
            HTTPException, ImageFileError: as `frame`.
        """
        with self._lock:
            found = self._embeddings.get(index)
            if found is not None:
                self._embeddings.move_to_end(index)
        if found is not None and not needs_pixels:
            return ReadyFrame(index, None, found)
        if self.image.is_late and not decodes:
            return None
        return ReadyFrame(index, self.frame(index), found)

    def embedding(self, segmenter: Segmenter, frame: ReadyFrame) -> tuple[Embedding, bool]:
        """Of a frame, and whether it was there already."""
        with self._lock:
            found = frame.embedding or self._embeddings.get(frame.index)
        if found is not None:
            return found, True
        assert frame.pixels is not None
        made = segmenter.encode(frame.pixels)
        with self._lock:
            self._embeddings[frame.index] = made
            while len(self._embeddings) > _EMBEDDINGS_KEPT:
                self._embeddings.popitem(last=False)
        return made, False


class SessionStore:
    """The newest sessions.

    Args:
        most: that are kept.
        seconds: for which one is kept after it was last used.
        max_bytes: that all of them hold; the newest is kept even if it holds more.
        clock: seconds.
        when_gone: Called with the reason, "unused", "count" or "memory", for each that goes.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        max_bytes: int = 1 << 31,
        clock: Callable[[], float] = time.monotonic,
        when_gone: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._when_gone = when_gone
        self._most, self._seconds, self._clock = most, seconds, clock
        self._max_bytes = max_bytes
        self._sessions: OrderedDict[str, tuple[Session, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        self.sweep()
        return len(self._sessions)

    def add(self, session: Session) -> Session:
        """Keep an image; the one that was used longest ago goes if there are too many."""
        with self._lock:
            self._sweep()
            self._sessions[session.id] = (session, self._clock())
            self._make_room()
        return session

    def get(self, name: str) -> Session:
        """A session.

        Raises:
            HTTPException: if there is none of that name, any more.
        """
        with self._lock:
            self._sweep()
            found = self._sessions.pop(name, None)
            if found is None:
                raise HTTPException(
                    404, "there is no such image, or it was not used for too long. Send it again."
                )
            self._sessions[name] = (found[0], self._clock())
            self._make_room()  # what is computed of images counts as well
            return found[0]

    def all(self) -> list[Session]:
        """All sessions; the one used last comes last."""
        with self._lock:
            self._sweep()
            return [session for session, _ in self._sessions.values()]

    def remove(self, name: str) -> None:
        """Forget a session; one that is not there is forgotten already."""
        with self._lock:
            self._sessions.pop(name, None)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._sessions.clear()

    def sweep(self) -> None:
        """Forget what was not used for too long."""
        with self._lock:
            self._sweep()

    def memory_bytes(self) -> int:
        """What all of them hold."""
        with self._lock:
            return self._memory_bytes()

    def _memory_bytes(self) -> int:
        return sum(session.memory_bytes for session, _ in self._sessions.values())

    def _make_room(self) -> None:
        while len(self._sessions) > self._most:
            self._sessions.popitem(last=False)
            self._when_gone("count")
        while len(self._sessions) > 1 and self._memory_bytes() > self._max_bytes:
            self._sessions.popitem(last=False)
            self._when_gone("memory")

    def _sweep(self) -> None:
        oldest = self._clock() - self._seconds
        while self._sessions:
            name, (_, used) = next(iter(self._sessions.items()))
            if used >= oldest:
                return
            del self._sessions[name]
            self._when_gone("unused")
