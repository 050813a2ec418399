"""Image files in: checked before they are decoded, then one grey frame.

PNG, JPEG, BMP and TIFF, with 8 or 16 bits per sample, grey or colour, with or without transparency.
Of a TIFF with several pages the first is read. Orientation tags are applied, so coordinates are those
of the image as viewers show it.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import ImageFileError
from samus_edge.runtime.bmp_file import BMP_SIGNATURES, bmp_size_wh, check_bmp
from samus_edge.runtime.grey_frame import MAX_IMAGE_PIXELS, GreyFrame
from samus_edge.runtime.jpeg_file import JPEG_SIGNATURES, check_jpeg, jpeg_size_wh
from samus_edge.runtime.png_file import PNG_SIGNATURES, check_png, png_has_alpha, png_size_wh
from samus_edge.runtime.tiff_file import TIFF_SIGNATURES, check_tiff, tiff_has_alpha, tiff_size_wh

__all__ = ["MAX_FILE_BYTES", "decode_image", "read_image", "scale_to_8_bits"]

# 1 GiB: twice the largest image that is accepted, uncompressed with four samples of 16 bits.
MAX_FILE_BYTES = 1 << 30

# What devices deliver in 16-bit files.
_ADVICE = "Copy it again, or export it as PNG."
_BIT_DEPTHS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class _Format:
    name: str
    signatures: tuple[bytes, ...]
    size_wh: Callable[[bytes], tuple[int, int]]
    check: Callable[[bytes], None]
    has_alpha: Callable[[bytes], bool]


def _never(content: bytes) -> bool:
    return False  # JPEG has no alpha; the fourth byte of a BMP pixel is mostly unused, and zero


_FORMATS = (
    _Format("PNG", PNG_SIGNATURES, png_size_wh, check_png, png_has_alpha),
    _Format("JPEG", JPEG_SIGNATURES, jpeg_size_wh, check_jpeg, _never),
    _Format("BMP", BMP_SIGNATURES, bmp_size_wh, check_bmp, _never),
    _Format("TIFF", TIFF_SIGNATURES, tiff_size_wh, check_tiff, tiff_has_alpha),
)


def read_image(path: str | os.PathLike[str]) -> GreyFrame:
    """Read an image file as one grey frame.

    The size that the header states is checked before anything is decoded, and a file that is not
    whole is an error, never a partly grey image.

    Args:
        path: a PNG, JPEG, BMP or TIFF file of at most `MAX_FILE_BYTES` and `MAX_IMAGE_PIXELS`.

    Returns:
        (H, W), uint8, [0, 255]. 16-bit samples are scaled by `scale_to_8_bits`; transparent pixels
        are laid over black; colour becomes grey by OpenCV's 0.299 R + 0.587 G + 0.114 B.

    Raises:
        ImageFileError: if the file is missing, unreadable, empty, truncated, damaged, too large, or
            not such an image. The message names the file and the reason.
    """
    file = Path(path)
    return decode_image(_read_bytes(file), file)


def decode_image(content: bytes, name: Path) -> GreyFrame:
    """Decode the content of an image file as `read_image` does.

    Args:
        content: of the whole file.
        name: for messages.

    Raises:
        ImageFileError: as `read_image`.
    """
    try:
        image, has_alpha = _decode(content)
        return _grey(image, has_alpha)
    except ImageFileError as err:
        reason, advice = (*err.args, _ADVICE)[:2]
        raise ImageFileError(f"{name} {reason}. {advice}") from err


def scale_to_8_bits(samples: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Scale 16-bit samples to 8 bits.

    Devices store 8, 10, 12 or 14 significant bits in 16-bit files and mostly do not say how many, so
    the depth is taken to be the smallest of those, or 16, that holds the largest sample. Then 0 stays
    0, the largest value of that depth becomes 255, and what is between is rounded to nearest.

    Args:
        samples: any shape, uint16.

    Returns:
        The same shape, uint8.
    """
    largest = int(samples.max(initial=0))
    depth = next(bits for bits in _BIT_DEPTHS if largest < 1 << bits)
    full_scale = (1 << depth) - 1
    values = np.arange(full_scale + 1, dtype=np.uint32)
    table = ((values * 255 + full_scale // 2) // full_scale).astype(np.uint8)
    return table[samples]


def _read_bytes(file: Path) -> bytes:
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageFileError(f"{file} is a folder. Give an image file.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageFileError(f"{file} is not a regular file. Give an image file.")
        if status.st_size == 0:
            raise ImageFileError(f"{file} is empty. Copy or export the image again.")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageFileError(
                f"{file} has {status.st_size} bytes, more than the limit of {MAX_FILE_BYTES}. "
                "Crop the image or scale it down."
            )
        return file.read_bytes()
    except FileNotFoundError as err:
        raise ImageFileError(
            f"{file} does not exist. Give the path of a PNG, JPEG, BMP or TIFF file."
        ) from err
    except OSError as err:
        raise ImageFileError(f"{file} cannot be read ({err.strerror}).") from err


def _decode(content: bytes) -> tuple[npt.NDArray[Any], bool]:
    """Decode a file that was found whole: (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGRA."""
    found = next((item for item in _FORMATS if content.startswith(item.signatures)), None)
    if found is None:
        raise ImageFileError("is not a PNG, JPEG, BMP or TIFF file")
    width, height = found.size_wh(content)
    if width == 0 or height == 0:
        raise ImageFileError(f"has no pixels: its header states {width} x {height}")
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageFileError(
            f"has {width} x {height} pixels, more than the limit of {MAX_IMAGE_PIXELS}",
            "Crop it or scale it down.",
        )
    found.check(content)
    has_alpha = found.has_alpha(content)
    flags = cv2.IMREAD_UNCHANGED if has_alpha else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as err:
        raise ImageFileError(f"is a {found.name} file that OpenCV cannot decode") from err
    if image is None:
        raise ImageFileError(f"is a {found.name} file that is damaged or of an unsupported kind")
    if sorted(image.shape[:2]) != sorted((height, width)):  # swapped by an orientation tag
        raise ImageFileError(
            f"is damaged: {image.shape[1]} x {image.shape[0]} pixels were decoded, "
            f"its header states {width} x {height}"
        )
    return image, has_alpha


def _grey(image: npt.NDArray[Any], has_alpha: bool) -> GreyFrame:
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageFileError(f"has {image.dtype.name} pixels; convert it to 8 or 16 bits unsigned")
    if image.ndim == 2:
        if has_alpha:  # OpenCV has dropped it
            raise ImageFileError(
                "is a grey TIFF with transparency, which is not supported; save it as PNG"
            )
        return _to_8_bits(image)
    colour = _to_8_bits(image[..., :3])  # (H, W, 3)
    if has_alpha and image.shape[2] == 4:
        alpha = image[..., 3:]  # (H, W, 1)
        opaque = np.iinfo(image.dtype).max
        product = colour.astype(np.uint32) * alpha
        colour = ((product + opaque // 2) // opaque).astype(np.uint8)  # rounded to nearest
    grey: GreyFrame = np.asarray(
        cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_BGR2GRAY), dtype=np.uint8
    )  # (H, W)
    return grey


def _to_8_bits(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if image.dtype == np.uint16:
        return scale_to_8_bits(image)
    return np.asarray(image, dtype=np.uint8)
