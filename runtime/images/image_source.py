"""An image by its path: an image file, or a frame of a DICOM file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.dicom.dicom_frames import HEAD_BYTES, is_dicom
from samus_edge.runtime.images.image_io import GreyFrame, read_image
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_frames import DicomFrames

__all__ = ["SourceImage", "is_dicom_file", "open_image"]


@dataclass(frozen=True, eq=False)
class SourceImage:
    """A frame, and where it is from.

    Attributes:
        image: (H, W), uint8, grey.
        study: the DICOM file; None for an image file.
        frame: index of the frame in it, from 0.
    """

    image: GreyFrame
    study: "DicomFrames | None" = None
    frame: int = 0

    def spacing_in(self, box: tuple[float, float, float, float]) -> PixelSpacing | None:
        """The size of pixels in a box, XYXY, as the file says; None where it does not."""
        return None if self.study is None else self.study.spacing_in(box)


def is_dicom_file(path: Path) -> bool:
    """Whether a file says that it is DICOM; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(HEAD_BYTES))
    except OSError:
        return False


def open_image(path: Path, frame: int = 0) -> SourceImage:
    """Read an image file, or a frame of a DICOM file.

    Args:
        path: a PNG, JPEG, BMP, TIFF or DICOM file.
        frame: index of the frame of a DICOM file, from 0.

    Raises:
        ValueError: if a frame other than the first of an image file is asked for.
        ImageFileError: if the image cannot be read.
        MissingExtraError: for a DICOM file without pydicom.
    """
    # A pipe would be waited for; `read_image` refuses it.
    if path.is_file() and is_dicom_file(path):
        from samus_edge.runtime.dicom.dicom_frames import DicomFrames

        study = DicomFrames.open(path)
        return SourceImage(study.read(frame), study, frame)
    image = read_image(path)
    if frame != 0:
        raise BadArgumentError(
            f"{path} is one image and has no frame {frame}. Leave the frame out."
        )
    return SourceImage(image)
