"""BMP files: their size before decoding, and whether they are whole.

Source: Microsoft Windows Metafile Format [MS-WMF], section 2.2.2 (BitmapInfoHeader and relatives).
"""

import struct
from dataclasses import dataclass

from samus_edge.errors import ImageFileError

__all__ = ["BMP_SIGNATURES", "bmp_size_wh", "check_bmp"]

BMP_SIGNATURES = (b"BM",)

_CORE_HEADER_BYTES = 12
_INFO_HEADER_BYTES = 40
_UNCOMPRESSED = (0, 3, 6)  # BI_RGB, BI_BITFIELDS, BI_ALPHABITFIELDS
_BITS_PER_PIXEL = (1, 4, 8, 16, 24, 32)


@dataclass(frozen=True)
class _Header:
    pixels_offset: int
    width: int
    height: int
    bits_per_pixel: int
    compression: int


def bmp_size_wh(content: bytes) -> tuple[int, int]:
    """(W, H) that the header states; nothing is decoded.

    Raises:
        ImageFileError: if there is no valid header.
    """
    header = _read_header(content)
    return header.width, header.height


def check_bmp(content: bytes) -> None:
    """Check that the file is long enough for the pixels that its header states.

    Raises:
        ImageFileError: if the file is truncated, or run-length coded, which says nothing about its
            length.
    """
    header = _read_header(content)
    if header.compression not in _UNCOMPRESSED:
        raise ImageFileError("is a compressed BMP, which is not supported; save it as PNG")
    row_bytes = (header.width * header.bits_per_pixel + 31) // 32 * 4
    missing_bytes = header.pixels_offset + row_bytes * header.height - len(content)
    if missing_bytes > 0:
        raise ImageFileError(f"is truncated: {missing_bytes} bytes of its pixels are missing")


def _read_header(content: bytes) -> _Header:
    if len(content) < 26:
        raise ImageFileError("is truncated: it ends inside its header")
    pixels_offset, header_bytes = struct.unpack_from("<II", content, 10)
    compression = 0
    if header_bytes == _CORE_HEADER_BYTES:
        width, height, _, bits_per_pixel = struct.unpack_from("<HHHH", content, 18)
    elif header_bytes >= _INFO_HEADER_BYTES:
        if len(content) < 14 + _INFO_HEADER_BYTES:
            raise ImageFileError("is truncated: it ends inside its header")
        width, height, _, bits_per_pixel, compression = struct.unpack_from("<iiHHI", content, 18)
        height = abs(height)  # negative: rows from top to bottom
    else:
        raise ImageFileError("is damaged: it has no valid BMP header")
    if width < 0 or bits_per_pixel not in _BITS_PER_PIXEL:
        raise ImageFileError("is damaged: it has no valid BMP header")
    return _Header(pixels_offset, width, height, bits_per_pixel, compression)
