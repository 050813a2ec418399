"""JPEG headers and whether a file is whole."""

import struct

import cv2
import numpy as np
import pytest

from samus_edge.errors import ImageFileError
from samus_edge.runtime.jpeg_file import check_jpeg, jpeg_size_wh

BASELINE: list[int] = []
PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
RESTARTS = [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]


def jpeg(options: list[int], colour: bool = False) -> bytes:
    """A noisy JPEG of 75 x 49 pixels: its scans hold all kinds of bytes."""
    shape = (49, 75, 3) if colour else (49, 75)
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95, *options])
    return bytes(content)


def with_segment(content: bytes, marker: int, data: bytes) -> bytes:
    """The file with a segment after its start."""
    segment = struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
    return content[:2] + segment + content[2:]


@pytest.mark.parametrize("options", [BASELINE, PROGRESSIVE, RESTARTS])
@pytest.mark.parametrize("colour", [False, True])
def test_a_whole_file_passes(options: list[int], colour: bool) -> None:
    content = jpeg(options, colour)
    check_jpeg(content)
    assert jpeg_size_wh(content) == (75, 49)


@pytest.mark.parametrize("options", [BASELINE, PROGRESSIVE, RESTARTS])
def test_a_file_cut_anywhere_is_truncated(options: list[int]) -> None:
    content = jpeg(options)
    for length in range(3, len(content), 7):
        with pytest.raises(ImageFileError, match="is truncated"):
            check_jpeg(content[:length])
    with pytest.raises(ImageFileError, match="is truncated"):
        check_jpeg(content[:-1])


def test_a_thumbnail_does_not_end_the_image() -> None:
    thumbnail = jpeg(BASELINE)
    content = with_segment(jpeg(BASELINE), 0xE1, b"Exif\0\0" + thumbnail)
    check_jpeg(content)
    assert jpeg_size_wh(content) == (75, 49)
    with pytest.raises(ImageFileError, match="is truncated"):
        check_jpeg(content[: 2 + 4 + 6 + len(thumbnail) + 200])


def test_what_follows_the_image_is_ignored() -> None:
    check_jpeg(jpeg(BASELINE) + b"appended")


def test_a_height_left_open_is_refused() -> None:
    content = jpeg(BASELINE)
    position = content.index(b"\xff\xc0") + 5
    with pytest.raises(ImageFileError, match="does not state its height"):
        jpeg_size_wh(content[:position] + b"\0\0" + content[position + 2 :])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xd8\xff", "no frame header"),
        (b"\xff\xd8\xff\xd9", "no frame header"),
        (b"\xff\xd8\xff\xe0\x00\x01", "impossible length"),
        (b"\xff\xd8\xff\xe0\x00\x02junk", "a marker is missing"),
        (b"\xff\xd8\xff\xc0\x00\x0b\x08", "no frame header"),
    ],
)
def test_a_file_without_header_is_damaged(content: bytes, message: str) -> None:
    with pytest.raises(ImageFileError, match=message):
        jpeg_size_wh(content)
