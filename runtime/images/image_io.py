"""Image files in: checked before they are decoded, then one grey frame.

PNG, JPEG, BMP, TIFF and WebP, with 8 or 16 bits per sample, grey or colour, with or without
transparency. Of a file with several pages the first is read. Orientation tags are applied, so
coordinates are those of the image as viewers show it.
"""

import importlib
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, ImageFileError

if TYPE_CHECKING:
    from PIL.Image import Image

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
        BadArgumentError: if its shape is another, or it has no pixels or too many.
    """
    if not isinstance(image, np.ndarray):
        hint = "Read a file with samus_edge.runtime.read_image."
        if hasattr(image, "__cuda_array_interface__"):
            hint = "This backend takes no memory of a GPU: copy the image to the host."
        raise TypeError(f"image must be a numpy array, got {type(image).__name__}. {hint}")
    if image.dtype != np.uint8:
        raise TypeError(
            f"image must be uint8 in [0, 255], got {image.dtype.name}. Scale it first; "
            "samus_edge.runtime.read_image does that for 16-bit files."
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


# Of many frames: a TIFF or a DICOM file.
MAX_FILE_BYTES = 1 << 30
MAX_FILE_PIXELS = 1 << 24
"""Of a frame in a file: decoding and encoding it takes less than 1 GB."""

# What devices deliver in 16-bit files.
_ADVICE = "Copy it again, or export it as PNG."
_BIT_DEPTHS = (8, 10, 12, 14, 16)


_FORMATS = (
    ("PNG", (b"\x89PNG\r\n\x1a\n",), "PngImagePlugin", "PngImageFile"),
    ("JPEG", (b"\xff\xd8\xff",), "JpegImagePlugin", "JpegImageFile"),
    ("BMP", (b"BM",), "BmpImagePlugin", "BmpImageFile"),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TiffImagePlugin", "TiffImageFile"),
    ("WebP", (b"RIFF",), "WebPImagePlugin", "WebPImageFile"),
)
_VIDEO_STARTS = (
    *(b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"\0\0\1\xba", b"\0\0\1\xb3"),
    b"GIF8",
)
_STILL_BRANDS = (b"heic", b"heix", b"mif1", b"avif")
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 258, 262, 339  # tags of TIFF and Exif
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_UNSIGNED = 1
_decoding = threading.Lock()  # filters of warnings belong to the whole process
# What Pillow gives without loss; the others are converted.
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L")
# What Pillow writes to a PNG file without loss.
_OF_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I")


def read_image(
    path: str | os.PathLike[str], *, depth: int | None = None, page: int = 0
) -> GreyFrame:
    """Read an image file as one grey frame.

    The size that the header states is checked before anything is decoded, and a file that ends
    early is an error. Damage inside compressed pixels is found where the format has checksums
    (PNG); a JPEG or an LZW TIFF with changed bytes may be read with wrong rows.

    Example:
        >>> image = read_image("examples/benign_80.png")
        >>> image.shape, image.dtype
        ((473, 561), dtype('uint8'))

    Args:
        path: a PNG, JPEG, BMP, TIFF or WebP file of at most `MAX_FILE_BYTES` and
            `MAX_FILE_PIXELS`.
        depth: Significant bits of 16-bit samples, so that frames of one series are scaled alike;
            None for the smallest of 8, 10, 12, 14 and 16 that holds this image's largest.
        page: Of a TIFF, WebP or PNG file with several; see `page_count`.

    Returns:
        (H, W), uint8, [0, 255]. 16-bit samples are scaled by `scale_to_8_bits`; transparent pixels
        are laid over black; colour becomes grey by OpenCV's 0.299 R + 0.587 G + 0.114 B.

    Raises:
        ImageFileError: if the file is missing, unreadable, empty, truncated, damaged, too large, or
            not such an image. The message names the file and the reason.
    """
    file = Path(path)
    return decode_image(read_image_file(file), file, depth=depth, page=page)


def decode_image(
    content: bytes, name: Path, *, depth: int | None = None, page: int = 0
) -> GreyFrame:
    """Decode the content of an image file as `read_image` does.

    Args:
        content: of the whole file.
        name: for messages.
        depth: As for `read_image`.
        page: As for `read_image`.

    Raises:
        ImageFileError: as `read_image`.
    """
    with _named(name):
        image, is_min_white = _decode(content, page)
        grey = _grey(image, depth)
        return 255 - grey if is_min_white else grey


def is_picture(image: object) -> "TypeGuard[Image]":
    """Whether an object is an image of Pillow's, which is imported already if there is one."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def picture_frame(picture: "Image") -> GreyFrame:
    """The frame that a picture of Pillow's would give as a PNG file; its pixels are not turned.

    Raises:
        ImageFileError: as `read_image`.
    """
    content = BytesIO()
    kept = picture if picture.mode in _OF_PNG else picture.convert("RGB")
    kept.save(content, "PNG", compress_level=0, exif=b"")
    return decode_image(content.getvalue(), Path("the picture"))


def may_have_colour(content: bytes, name: Path) -> bool:
    """Whether the header of an image says that it is not grey; errors as of `read_image`."""
    with _named(name), _opened(content) as (_, picture):
        return (
            picture.mode.rstrip("a") not in ("1", "L", "LA", "I", "F") and picture.mode[:2] != "I;"
        )


def decode_colour(content: bytes, name: Path, *, page: int = 0) -> npt.NDArray[np.uint8] | None:
    """Decode an image that has colour, for the eye: (H, W, 3), RGB; None of a grey one.

    Arguments and errors are those of `decode_image`.
    """
    with _named(name):
        image, _ = _decode(content, page)
        if image.ndim == 2 or image.shape[2] < 3:
            return None
        has_alpha = image.shape[2] == 4
        depth = _depth(image[..., :3]) if image.dtype == np.uint16 else None
        colour = _over_black(image, depth, has_alpha)
        is_grey = (colour == colour[..., :1]).all()
        return None if is_grey else np.ascontiguousarray(colour)


def page_count(content: bytes, name: Path) -> int:
    """The pages of a TIFF file, or the frames of an animated PNG or WebP; 1 of any other image.

    Raises:
        ImageFileError: as `read_image`.
    """
    with _named(name), _opened(content) as (kind, picture):
        return int(getattr(picture, "n_frames", 1)) if kind in ("TIFF", "WebP", "PNG") else 1


def page_seconds(content: bytes, name: Path) -> list[float]:
    """When each frame of an animated PNG or WebP is shown, from the first one's time; empty where
    the file does not say.

    Raises:
        ImageFileError: as `read_image`.
    """
    seconds = [0.0]
    with _named(name), _opened(content) as (kind, picture):
        if kind not in ("WebP", "PNG"):
            return []
        for page in range(getattr(picture, "n_frames", 1)):
            picture.seek(page)
            picture.load()  # which reads a WebP's times
            duration = picture.info.get("duration")
            if not isinstance(duration, int | float) or duration <= 0:
                return []
            seconds.append(seconds[-1] + duration / 1000)
    return seconds[:-1]


def depth_of_series(pages: Iterable[tuple[bytes, Path, int]]) -> int | None:
    """The bits that hold the largest sample of several images; None if one has 8-bit samples.

    Args:
        pages: Content and name of each file, and which page of it.

    Raises:
        ImageFileError: as `read_image`.
    """
    deepest = None
    for content, name, page in pages:
        with _named(name):
            image, _ = _decode(content, page)
        if image.dtype != np.uint16:
            return None  # a series of 8 bits, at its first image
        deepest = max(deepest or 0, _depth(image))
    return deepest


@contextmanager
def _named(name: Path) -> Iterator[None]:
    """Name the file, and say what to do, in errors of decoding."""
    try:
        yield
    except ImageFileError as err:
        reason, advice = (*err.args, _ADVICE)[:2]
        raise ImageFileError(f"{name} {reason}. {advice}") from err


def scale_to_8_bits(
    samples: npt.NDArray[np.uint16], depth: int | None = None
) -> npt.NDArray[np.uint8]:
    """Scale 16-bit samples to 8 bits.

    Devices store 8, 10, 12 or 14 significant bits in 16-bit files and mostly do not say how many,
    so the depth is taken to be the smallest of those, or 16, that holds the largest sample. Then 0
    stays 0, the largest value of that depth becomes 255, and what is between is rounded to nearest.

    Args:
        samples: any shape, uint16.
        depth: Significant bits, of all frames of a series; larger samples become 255.

    Returns:
        The same shape, uint8.
    """
    if depth is None:
        depth = _depth(samples)
    else:
        samples = np.minimum(samples, (1 << depth) - 1).astype(np.uint16)
    full_scale = (1 << depth) - 1
    values = np.arange(full_scale + 1, dtype=np.uint32)
    table = ((values * 255 + full_scale // 2) // full_scale).astype(np.uint8)
    return table[samples]


def _depth(samples: npt.NDArray[Any]) -> int:
    largest = int(samples.max(initial=0))
    return next(bits for bits in _BIT_DEPTHS if largest < 1 << bits)


def read_image_file(file: Path) -> bytes:
    """The content of a regular file that is not too large; errors as of `read_image`."""
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
            f"{file} does not exist. Give the path of a PNG, JPEG, BMP, TIFF or WebP file."
        ) from err
    except OSError as err:
        raise ImageFileError(f"{file} cannot be read ({err.strerror}).") from err


def _decode(content: bytes, page: int) -> tuple[npt.NDArray[Any], bool]:
    """Decode a page: (H, W), (H, W, 2) with alpha, (H, W, 3) RGB or (H, W, 4) RGBA, 8 or 16 bits;
    and whether 0 is white."""
    with _opened(content) as (kind, picture):
        if page:
            picture.seek(page)
        tags = getattr(picture, "tag_v2", {})
        tile = (int(tags.get(_TILE_WIDTH, 1)), int(tags.get(_TILE_HEIGHT, 1)))
        # A tile is decoded as a whole, however little of it belongs to the image.
        for what, (width, height) in (("pixels", picture.size), ("pixels in a tile", tile)):
            if width * height > MAX_FILE_PIXELS:
                raise ImageFileError(
                    f"has {width} x {height} {what}, more than the limit of {MAX_FILE_PIXELS}",
                    "Crop it or scale it down.",
                )
        if kind == "PNG":  # the chunks and their checksums, up to the end
            with _opener(kind)(BytesIO(content)) as checked:
                checked.verify()
        return _samples(picture, content, page)


@contextmanager
def _opened(content: bytes) -> Iterator[tuple[str, "Image"]]:
    """The kind of a file, and the file as Pillow opens it, without pixels yet."""
    found = _format_of(content)
    if is_video(content):
        raise ImageFileError(
            "is a video or a GIF, not an image",
            "Follow a lesion through it with `samus-edge track`, or export one frame as PNG.",
        )
    if found is None:
        raise ImageFileError("is not a PNG, JPEG, BMP, TIFF or WebP file")
    kind = found[0]
    opener = _opener(kind)
    try:
        with _decoding, warnings.catch_warnings(), opener(BytesIO(content)) as picture:
            # Pillow warns of a directory that is cut off, and goes on.
            warnings.filterwarnings("error", module=r"PIL\b")
            yield kind, picture
    except ImageFileError:
        raise
    except Exception as err:  # decoders have no error in common
        reason = str(err) or type(err).__name__
        raise ImageFileError(f"is a {kind} file that is truncated or damaged ({reason})") from err


def _opener(kind: str) -> Any:
    """Pillow's plugin by itself: Image.open would look for others, and warn of sizes on its own."""
    module, plugin = next(each[2:] for each in _FORMATS if each[0] == kind)
    plugins = importlib.import_module(f"PIL.{module}")
    if kind == "TIFF":
        # Pillow knows 16-bit MinIsWhite in little-endian files only; `_samples` inverts both.
        plugins.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
    return getattr(plugins, plugin)


def is_image(head: bytes) -> bool:
    """Whether a file that begins so says that it is a PNG, JPEG, BMP, TIFF or WebP file."""
    return _format_of(head) is not None


def _format_of(head: bytes) -> tuple[str, tuple[bytes, ...], str, str] | None:
    found = next((each for each in _FORMATS if head.startswith(each[1])), None)
    return None if found and found[0] == "WebP" and head[8:12] != b"WEBP" else found


def is_video(content: bytes) -> bool:
    """Whether a file begins as AVI, MP4, QuickTime, Matroska, WebM, ASF, MPEG or GIF does."""
    if content[4:8] == b"ftyp":  # HEIF and AVIF share MP4's container
        return content[8:12] not in _STILL_BRANDS
    is_avi = content.startswith(b"RIFF") and content[8:12] == b"AVI "
    return is_avi or content.startswith(_VIDEO_STARTS)


def _samples(picture: "Image", content: bytes, page: int) -> tuple[npt.NDArray[Any], bool]:
    """The samples of a picture as viewers show it, whatever its mode; and whether 0 is white."""
    from PIL import ImageOps

    raw = str(picture.tile[0][3]) if picture.tile else ""  # type: ignore[attr-defined]  # of files
    tags = getattr(picture, "tag_v2", {})
    if any(each != _UNSIGNED for each in tuple(tags.get(_SAMPLE_FORMAT, ()))):
        raise ImageFileError(
            "has signed or floating-point pixels; convert it to 8 or 16 bits unsigned"
        )
    is_deep_colour = picture.mode in ("RGB", "RGBA", "LA", "RGBX") and (
        ";16" in raw or 16 in tuple(tags.get(_BITS, ()))
    )
    orientation = picture.getexif().get(_ORIENTATION, 1)
    picture.load()
    if is_deep_colour:  # Pillow keeps 8 of 16 bits
        if page:
            raise ImageFileError("has several pages of 16-bit colour; export the page as PNG")
        return _oriented(_deep_samples(content), orientation), False
    transparent = picture.info.get("transparency")
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        samples = np.asarray(ImageOps.exif_transpose(picture))
        if picture.mode == "I" and not 0 <= samples.min() <= samples.max() <= 65535:
            raise ImageFileError("has 32-bit pixels; convert it to 8 or 16 bits unsigned")
        samples = samples.astype(np.uint16)
        if transparent is not None:
            samples = np.where(samples == transparent, 0, samples).astype(np.uint16)
        return samples, tags.get(_PHOTOMETRIC) == 0  # MinIsWhite: Pillow inverts 8 bits alone
    if picture.mode in ("F", "LAB", "HSV"):
        raise ImageFileError(f"has pixels of the kind {picture.mode}; convert it to grey or RGB")
    if transparent is not None or picture.mode in ("PA", "La", "RGBa"):
        picture = picture.convert("RGBA")
    elif picture.mode not in _PLAIN_MODES:
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    # A copy, since Pillow's own is read-only.
    return np.array(ImageOps.exif_transpose(picture)), False


def _deep_samples(content: bytes) -> npt.NDArray[Any]:
    """Colour of 16 bits, by OpenCV: (H, W, 3) RGB or (H, W, 4) RGBA, not turned yet."""
    import cv2

    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if image is None:
        raise ImageFileError("has colour of 16 bits of an unsupported kind; convert it to 8 bits")
    return np.asarray(image)[..., [2, 1, 0, 3][: image.shape[2]]]


def _oriented(image: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn and mirror as the Exif orientation, 1 to 8, says."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


# Intermediate results of a block are larger than the image's own samples.
_BLOCK_ROWS = 256


def _grey(image: npt.NDArray[Any], depth: int | None) -> GreyFrame:
    """Grey of 8 bits; transparent pixels are laid over black."""
    has_alpha = image.ndim == 3 and image.shape[2] in (2, 4)
    if image.dtype == np.uint16 and depth is None:
        depth = _depth(image[..., :-1] if has_alpha else image)
    grey = np.empty(image.shape[:2], np.uint8)  # (H, W)
    for row in range(0, len(grey), _BLOCK_ROWS):
        rows = slice(row, row + _BLOCK_ROWS)
        grey[rows] = _grey_block(image[rows], depth, has_alpha)
    return grey


def _grey_block(
    image: npt.NDArray[Any], depth: int | None, has_alpha: bool
) -> npt.NDArray[np.uint8]:
    if image.ndim == 2:
        return _to_8_bits(image, depth)
    import cv2

    colour = _over_black(image, depth, has_alpha)
    if colour.shape[2] == 1:
        return np.asarray(colour[..., 0], dtype=np.uint8)
    grey = cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_RGB2GRAY)  # (H, W)
    return np.asarray(grey, dtype=np.uint8)


def _over_black(
    image: npt.NDArray[Any], depth: int | None, has_alpha: bool
) -> npt.NDArray[np.uint8]:
    """(H, W, 1) or (H, W, 3) of 8 bits."""
    colour = _to_8_bits(image[..., : image.shape[2] - has_alpha], depth)
    if not has_alpha:
        return colour
    opaque = np.iinfo(image.dtype).max
    product = colour.astype(np.uint32) * image[..., -1:]
    rounded: npt.NDArray[np.uint8] = ((product + opaque // 2) // opaque).astype(np.uint8)
    return rounded


def _to_8_bits(image: npt.NDArray[Any], depth: int | None) -> npt.NDArray[np.uint8]:
    if image.dtype == np.uint16:
        return scale_to_8_bits(image, depth)
    return np.asarray(image, dtype=np.uint8)
