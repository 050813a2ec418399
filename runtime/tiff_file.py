"""TIFF files: their size before decoding, and whether they are whole.

Source: TIFF Revision 6.0, sections 2 (structure), 3 to 8 (baseline fields) and 15 (tiles); BigTIFF
as in libtiff.
"""

import struct
from dataclasses import dataclass

from samus_edge.errors import ImageFileError

__all__ = ["TIFF_SIGNATURES", "check_tiff", "tiff_has_alpha", "tiff_size_wh"]

TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

_WIDTH, _HEIGHT = 256, 257
_PHOTOMETRIC, _CMYK = 262, 5
_SAMPLES_PER_PIXEL = 277
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
    samples = fields.get(_SAMPLES_PER_PIXEL, (1,))
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
