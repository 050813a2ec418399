"""BMP headers and whether a file is whole."""

import struct

import cv2
import numpy as np
import pytest

from samus_edge.errors import ImageFileError
from samus_edge.runtime.bmp_file import bmp_size_wh, check_bmp


def bmp(shape: tuple[int, ...] = (5, 7)) -> bytes:
    """A BMP as OpenCV writes it."""
    _, content = cv2.imencode(".bmp", np.full(shape, 9, np.uint8))
    return bytes(content)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_a_whole_file_passes(shape: tuple[int, ...]) -> None:
    check_bmp(bmp(shape))
    assert bmp_size_wh(bmp(shape)) == (7, 5)


def test_a_file_cut_anywhere_is_truncated() -> None:
    content = bmp()
    for length in range(2, len(content)):
        with pytest.raises(ImageFileError, match="is truncated"):
            check_bmp(content[:length])


def test_rows_from_top_to_bottom_have_a_negative_height() -> None:
    content = bytearray(bmp())
    struct.pack_into("<i", content, 22, -5)
    check_bmp(bytes(content))
    assert bmp_size_wh(bytes(content)) == (7, 5)


def test_the_old_header_is_read() -> None:
    # BITMAPCOREHEADER: 7 x 5 at 24 bits, rows of 21 bytes padded to 24.
    content = b"BM" + struct.pack("<IHHI", 146, 0, 0, 26) + struct.pack("<IHHHH", 12, 7, 5, 1, 24)
    assert bmp_size_wh(content) == (7, 5)
    check_bmp(content + bytes(24 * 5))
    with pytest.raises(ImageFileError, match="1 bytes of its pixels are missing"):
        check_bmp(content + bytes(24 * 5 - 1))


def test_run_length_coding_is_refused() -> None:
    content = bytearray(bmp())
    struct.pack_into("<I", content, 30, 1)
    with pytest.raises(ImageFileError, match="compressed BMP, which is not supported"):
        check_bmp(bytes(content))


@pytest.mark.parametrize(
    ("offset", "value"), [(14, struct.pack("<I", 13)), (18, struct.pack("<i", -7)), (28, b"\x07\0")]
)
def test_an_impossible_header_is_damage(offset: int, value: bytes) -> None:
    content = bytearray(bmp())
    content[offset : offset + len(value)] = value
    with pytest.raises(ImageFileError, match="no valid BMP header"):
        bmp_size_wh(bytes(content))
