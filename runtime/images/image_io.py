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
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, ImageFileError
from samus_edge.runtime.images.file_checks import (
    BMP_SIGNATURES,
    JPEG_SIGNATURES,
    PNG_SIGNATURES,
    TIFF_SIGNATURES,
    bmp_size_wh,
    check_bmp,
    check_jpeg,
    check_png,
    check_tiff,
    jpeg_size_wh,
    png_has_alpha,
    png_size_wh,
    tiff_has_alpha,
    tiff_size_wh,
)

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_IMAGE_PIXELS",
    "GreyFrame",
    "decode_image",
    "grey_frame",
    "read_image",
    "scale_to_8_bits",
]


GreyFrame: TypeAlias = npt.NDArray[np.uint8]

# 67 million, 8192 x 8192: thirty times a large ultrasound frame, and little enough for memory.
MAX_IMAGE_PIXELS = 1 << 26


def grey_frame(image: object) -> GreyFrame:
    """Check an image and make it grey.

    Args:
        image: (H, W) grey or (H, W, 3) RGB, uint8, [0, 255], at most `MAX_IMAGE_PIXELS` pixels.

    Returns:
        (H, W), uint8, C-contiguous; `image` itself where it is that already. RGB becomes grey by
        0.299 R + 0.587 G + 0.114 B, in OpenCV's fixed-point arithmetic (cv2.COLOR_RGB2GRAY).

    Raises:
        TypeError: if the image is not a uint8 array.
        ValueError: if its shape is another, or it has no pixels or too many.
    """
    if not isinstance(image, np.ndarray):
        hint = "Read a file with samus_edge.runtime.images.image_io.read_image."
        if hasattr(image, "__cuda_array_interface__"):
            hint = "This backend takes no memory of a GPU: copy the image to the host."
        raise TypeError(f"image must be a numpy array, got {type(image).__name__}. {hint}")
    if image.dtype != np.uint8:
        raise TypeError(
            f"image must be uint8 in [0, 255], got {image.dtype.name}. Scale it first; "
            "samus_edge.runtime.images.image_io.read_image does that for 16-bit files."
        )
    is_grey = image.ndim == 2
    if not is_grey and not (image.ndim == 3 and image.shape[2] == 3):
        hint = _shape_hint(image.shape)
        raise BadArgumentError(
            f"image must have shape (H, W) or (H, W, 3), got {image.shape}. {hint}"
        )
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        raise BadArgumentError(f"image must have at least one pixel, got {width} x {height}.")
    if height * width > MAX_IMAGE_PIXELS:
        raise BadArgumentError(
            f"image has {width} x {height} pixels, more than the limit of {MAX_IMAGE_PIXELS}. "
            "Crop it or scale it down."
        )
    if is_grey:
        return np.ascontiguousarray(image)
    # Here, so that importing the runtime does not load OpenCV.
    import cv2

    grey: GreyFrame = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)  # (H, W)
    return grey


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[2] == 4:
        return "Drop the alpha channel: image[..., :3]."
    if len(shape) == 3 and shape[2] == 1:
        return "Drop the last axis: image[..., 0]."
    if len(shape) == 3 and shape[0] in (1, 3):
        return "Channels come last: image.transpose(1, 2, 0), then [..., 0] if there is one."
    return "Pass one image at a time."


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

    Example:
        >>> image = read_image("examples/benign_80.png")
        >>> image.shape, image.dtype
        ((473, 561), dtype('uint8'))

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
    import cv2

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
    import cv2

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
