"""PNG files: their size before decoding, and whether they are whole.

Source: Portable Network Graphics (PNG) Specification, Third Edition, W3C: section 5 (chunks),
8.1 (Adam7), 11.2.1 (IHDR).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from samus_edge.errors import ImageFileError

__all__ = ["PNG_SIGNATURES", "check_png", "png_has_alpha", "png_size_wh"]

PNG_SIGNATURES = (b"\x89PNG\r\n\x1a\n",)

_SAMPLES_PER_PIXEL = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_COLOUR_TYPES_WITH_ALPHA = (4, 6)
# Adam7: first column, first row, column step, row step of each pass.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# Pixels are counted piece by piece, never held.
_INPUT_PIECE_BYTES = 1 << 16
_OUTPUT_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    bit_depth: int
    colour_type: int
    interlaced: bool


def png_size_wh(content: bytes) -> tuple[int, int]:
    """(W, H) that the header states; nothing is decoded.

    Raises:
        ImageFileError: if there is no valid header.
    """
    header = _read_header(content)
    return header.width, header.height


def png_has_alpha(content: bytes) -> bool:
    """Whether a checked PNG has transparency: an alpha channel or a tRNS chunk."""
    if _read_header(content).colour_type in _COLOUR_TYPES_WITH_ALPHA:
        return True
    return any(kind == b"tRNS" for kind, _ in _chunks(content))


def check_png(content: bytes) -> None:
    """Check every chunk, and that the compressed data holds all pixels that the header states.

    Decoders differ in what they make of a damaged file, from an error to a half-grey image.

    Raises:
        ImageFileError: if the file is truncated or damaged.
    """
    header = _read_header(content)
    inflater = zlib.decompressobj()
    missing_bytes = _raw_bytes(header)
    for kind, data in _chunks(content):
        if kind != b"IDAT":
            continue
        try:
            for start in range(0, len(data), _INPUT_PIECE_BYTES):
                pending = bytes(data[start : start + _INPUT_PIECE_BYTES])
                while pending and missing_bytes > 0:
                    missing_bytes -= len(inflater.decompress(pending, _OUTPUT_PIECE_BYTES))
                    pending = inflater.unconsumed_tail
        except zlib.error as err:
            raise ImageFileError(f"is damaged: its compressed pixels are invalid ({err})") from err
    if missing_bytes > 0:
        raise ImageFileError(
            f"is damaged: pixels are missing, {missing_bytes} of {_raw_bytes(header)} bytes"
        )


def _read_header(content: bytes) -> _Header:
    if len(content) < 33:
        raise ImageFileError("is truncated: it ends inside its header")
    length, kind = struct.unpack_from(">I4s", content, 8)
    width, height, bit_depth, colour_type, _, _, interlace = struct.unpack_from(
        ">IIBBBBB", content, 16
    )
    if (length, kind) != (13, b"IHDR") or colour_type not in _SAMPLES_PER_PIXEL:
        raise ImageFileError("is damaged: it has no valid PNG header")
    return _Header(width, height, bit_depth, colour_type, interlace == 1)


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and data of every chunk up to IEND, checksums checked.

    Raises:
        ImageFileError: if the file ends before IEND or a checksum is wrong.
    """
    view = memoryview(content)
    position = len(PNG_SIGNATURES[0])
    while True:
        if position + 12 > len(content):
            raise ImageFileError("is truncated: it ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            raise ImageFileError(
                f"is truncated: {end - len(content)} bytes are missing from its chunk "
                f"{kind.decode('ascii', 'backslashreplace')}"
            )
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            raise ImageFileError(
                f"is damaged: its chunk {kind.decode('ascii', 'backslashreplace')} "
                "fails its checksum"
            )
        yield kind, view[position + 8 : end - 4]
        if kind == b"IEND":
            return
        position = end


def _raw_bytes(header: _Header) -> int:
    """Bytes that the pixels take before compression, one filter byte per row included."""
    bits_per_pixel = header.bit_depth * _SAMPLES_PER_PIXEL[header.colour_type]
    passes = _ADAM7 if header.interlaced else ((0, 0, 1, 1),)
    total = 0
    for first_column, first_row, column_step, row_step in passes:
        columns = -(-(header.width - first_column) // column_step)
        rows = -(-(header.height - first_row) // row_step)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits_per_pixel + 7) // 8)
    return total
