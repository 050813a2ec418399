"""PNG files: their size before decoding, and whether they are whole.

Source: Portable Network Graphics (PNG) Specification, Third Edition, W3C: section 5 (chunks),
8.1 (Adam7), 11.2.1 (IHDR).

TIFF files: their size before decoding, and whether they are whole.

Source: TIFF Revision 6.0, sections 2 (structure), 3 to 8 (baseline fields) and 15 (tiles); BigTIFF
as in libtiff.

BMP files: their size before decoding, and whether they are whole.

Source: Microsoft Windows Metafile Format [MS-WMF], section 2.2.2 (BitmapInfoHeader and relatives).

JPEG files: their size before decoding, and whether they are whole.

Source: ITU-T T.81, Annex B (markers and segments).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from samus_edge.errors import ImageFileError

__all__ = [
    "BMP_SIGNATURES",
    "JPEG_SIGNATURES",
    "PNG_SIGNATURES",
    "TIFF_SIGNATURES",
    "bmp_size_wh",
    "check_bmp",
    "check_jpeg",
    "check_png",
    "check_tiff",
    "jpeg_size_wh",
    "png_has_alpha",
    "png_size_wh",
    "tiff_has_alpha",
    "tiff_size_wh",
]


TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

_WIDTH, _HEIGHT = 256, 257
_PHOTOMETRIC, _CMYK = 262, 5
_TIFF_FILE_SAMPLES_PER_PIXEL = 277
# Where the pixels are: offsets and byte counts, of strips or of tiles.
_PIXEL_TAGS = ((273, 279), (324, 325))
_TYPE_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8: all that is needed


@dataclass(frozen=True)
class _Layout:
    """How classic TIFF and BigTIFF differ, as struct formats in the file's byte order."""

    order: str
    offset: str
    offset_bytes: int
    entry_count: str
    entry_bytes: int


def tiff_size_wh(content: bytes) -> tuple[int, int]:
    """(W, H) of the first image that the file's directory states; nothing is decoded.

    Raises:
        ImageFileError: if there is no valid directory.
    """
    fields = _read_directory(content)
    if not fields.get(_WIDTH) or not fields.get(_HEIGHT):
        raise ImageFileError("is damaged: it does not state its size")
    return fields[_WIDTH][0], fields[_HEIGHT][0]


def tiff_has_alpha(content: bytes) -> bool:
    """Whether a checked TIFF has a sample beyond grey or RGB.

    Told by the number of samples: OpenCV, among others, does not write the field ExtraSamples.
    """
    fields = _read_directory(content)
    samples = fields.get(_TIFF_FILE_SAMPLES_PER_PIXEL, (1,))
    return samples in ((2,), (4,)) and fields.get(_PHOTOMETRIC) != (_CMYK,)


def check_tiff(content: bytes) -> None:
    """Check that all strips or tiles of the first image lie within the file.

    Raises:
        ImageFileError: if the file is truncated or damaged.
    """
    fields = _read_directory(content)
    for offsets_tag, counts_tag in _PIXEL_TAGS:
        offsets, counts = fields.get(offsets_tag, ()), fields.get(counts_tag, ())
        if not offsets:
            continue
        if len(offsets) != len(counts):
            raise ImageFileError("is damaged: it does not say where all of its pixels are")
        end = max(offset + count for offset, count in zip(offsets, counts, strict=True))
        if end > len(content):
            raise ImageFileError(
                f"is truncated: {end - len(content)} bytes of its pixels are missing"
            )
        return
    raise ImageFileError("is damaged: it does not say where its pixels are")


def _read_directory(content: bytes) -> dict[int, tuple[int, ...]]:
    """Values by tag of the first image file directory, of the integer fields."""
    try:
        layout = _read_layout(content)
        (position,) = struct.unpack_from(layout.order + layout.offset, content, layout.offset_bytes)
        (entries,) = struct.unpack_from(layout.order + layout.entry_count, content, position)
        position += struct.calcsize(layout.order + layout.entry_count)
        fields: dict[int, tuple[int, ...]] = {}
        for index in range(entries):
            start = position + index * layout.entry_bytes
            tag, values = _read_entry(content, start, layout)
            fields[tag] = values
    except struct.error as err:
        raise ImageFileError("is truncated: its directory is beyond its end") from err
    return fields


def _read_layout(content: bytes) -> _Layout:
    order = "<" if content[:2] == b"II" else ">"
    (version,) = struct.unpack_from(order + "H", content, 2)
    if version == 43:
        return _Layout(order, "Q", 8, "Q", 20)
    return _Layout(order, "I", 4, "H", 12)


def _read_entry(content: bytes, start: int, layout: _Layout) -> tuple[int, tuple[int, ...]]:
    """Tag and values of one field; no values where its type is not an unsigned integer."""
    tag, kind, count = struct.unpack_from(f"{layout.order}HH{layout.offset}", content, start)
    if kind not in _TYPE_FORMATS:
        return tag, ()
    if count > len(content):  # before a huge count becomes a huge struct format
        raise struct.error("more values than bytes")
    values_format = f"{layout.order}{count}{_TYPE_FORMATS[kind]}"
    value_start = start + 4 + layout.offset_bytes
    if struct.calcsize(values_format) > layout.offset_bytes:
        (value_start,) = struct.unpack_from(layout.order + layout.offset, content, value_start)
    return tag, struct.unpack_from(values_format, content, value_start)


BMP_SIGNATURES = (b"BM",)

_CORE_HEADER_BYTES = 12
_INFO_HEADER_BYTES = 40
_UNCOMPRESSED = (0, 3, 6)  # BI_RGB, BI_BITFIELDS, BI_ALPHABITFIELDS
_BITS_PER_PIXEL = (1, 4, 8, 16, 24, 32)


@dataclass(frozen=True)
class _BmpFileHeader:
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
    header = _bmp_file_read_header(content)
    return header.width, header.height


def check_bmp(content: bytes) -> None:
    """Check that the file is long enough for the pixels that its header states.

    Raises:
        ImageFileError: if the file is truncated, or run-length coded, which says nothing about its
            length.
    """
    header = _bmp_file_read_header(content)
    if header.compression not in _UNCOMPRESSED:
        raise ImageFileError("is a compressed BMP, which is not supported; save it as PNG")
    row_bytes = (header.width * header.bits_per_pixel + 31) // 32 * 4
    missing_bytes = header.pixels_offset + row_bytes * header.height - len(content)
    if missing_bytes > 0:
        raise ImageFileError(f"is truncated: {missing_bytes} bytes of its pixels are missing")


def _bmp_file_read_header(content: bytes) -> _BmpFileHeader:
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
    return _BmpFileHeader(pixels_offset, width, height, bits_per_pixel, compression)


JPEG_SIGNATURES = (b"\xff\xd8\xff",)

_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA
# SOF0 to SOF15; DHT, JPG and DAC have their codes among them.
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM and RST0 to RST7.
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
# After 0xFF inside entropy-coded data: a stuffed zero, or a restart marker.
_INSIDE_SCAN = {0x00, *range(0xD0, 0xD8)}


def jpeg_size_wh(content: bytes) -> tuple[int, int]:
    """(W, H) that the frame header states; nothing is decoded.

    Raises:
        ImageFileError: if there is no frame header, or it leaves the height open.
    """
    for marker, position in _segments(content):
        if marker in _START_OF_FRAME:
            if position + 9 > len(content):
                break
            height, width = struct.unpack_from(">HH", content, position + 5)
            if height == 0:
                raise ImageFileError("does not state its height in its header; save it as PNG")
            return width, height
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
    raise ImageFileError("is damaged: it has no frame header")


def check_jpeg(content: bytes) -> None:
    """Check that the file goes on to its end-of-image marker.

    libjpeg fills what is missing with grey and only warns.

    Raises:
        ImageFileError: if the file is truncated or damaged.
    """
    for marker, _ in _segments(content):
        if marker == _END_OF_IMAGE:
            return
    raise ImageFileError("is truncated: it ends before its end-of-image marker")


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Marker code and position (of the marker's 0xFF) of every segment, to the end of the image.

    Segments are skipped by their length, so that a thumbnail inside one does not end the image.
    """
    position = 2
    while position + 2 <= len(content):
        if content[position] != 0xFF:
            raise ImageFileError("is damaged: a marker is missing between two segments")
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        yield marker, position
        if marker == _END_OF_IMAGE:
            return
        position += 2
        if marker in _STANDALONE:
            continue
        if position + 2 > len(content):
            return
        (length,) = struct.unpack_from(">H", content, position)
        if length < 2:
            raise ImageFileError("is damaged: a segment states an impossible length")
        position += length
        if marker == _START_OF_SCAN:
            position = _end_of_scan(content, position)


def _end_of_scan(content: bytes, position: int) -> int:
    """Position of the first marker after entropy-coded data."""
    while True:
        position = content.find(b"\xff", position)
        if position < 0 or position + 1 >= len(content):
            return len(content)
        if content[position + 1] in _INSIDE_SCAN:
            position += 2
        else:
            return position


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
