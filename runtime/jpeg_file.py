"""JPEG files: their size before decoding, and whether they are whole.

Source: ITU-T T.81, Annex B (markers and segments).
"""

import struct
from collections.abc import Iterator

from samus_edge.errors import ImageFileError

__all__ = ["JPEG_SIGNATURES", "check_jpeg", "jpeg_size_wh"]

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
