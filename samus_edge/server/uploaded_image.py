"""What a client has sent: an image, a DICOM study or a video, in memory alone."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from samus_edge.errors import ImageFileError
from samus_edge.runtime.cine.box_geometry import Box
from samus_edge.runtime.dicom.require_pydicom import is_dicom, require_pydicom
from samus_edge.runtime.grey_frame import GreyFrame
from samus_edge.runtime.image_io import decode_image
from samus_edge.runtime.measurement.pixel_spacing import PixelSpacing

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_frames import DicomFrames

__all__ = ["StillImage", "UploadedImage", "open_upload"]

_NAME = Path("the image")
_VIDEO_SIGNATURES = ((4, b"ftyp"), (0, b"RIFF"), (0, b"\x1aE\xdf\xa3"))
"""Where and what: MP4 and MOV, AVI, Matroska and WebM."""
MOST_VIDEO_BYTES = 1 << 29
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


def open_upload(content: bytes, most_frames: int) -> UploadedImage:
    """Open what was sent.

    Args:
        content: of the file.
        most_frames: of a video; more are an error, since its frames are kept in memory.

    Raises:
        ImageFileError: if it is none of what can be read.
        MissingExtraError: for DICOM without pydicom.
    """
    if is_dicom(content):
        require_pydicom()
        from samus_edge.runtime.dicom.dicom_frames import DicomFrames

        return _Study(DicomFrames.from_bytes(content, _NAME), len(content))
    if any(content[at : at + len(text)] == text for at, text in _VIDEO_SIGNATURES):
        return _Video(content, most_frames)
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

    def __init__(self, content: bytes, most_frames: int) -> None:
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
                    if self.memory_bytes > MOST_VIDEO_BYTES:
                        raise ImageFileError(
                            f"the video's frames have more than {MOST_VIDEO_BYTES >> 20} MB. Cut out the part that "
                            "matters, or scale it down."
                        )
                    if len(self._frames) == most_frames:
                        raise ImageFileError(
                            f"the video has more than {most_frames} frames. Cut out the part that matters."
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
