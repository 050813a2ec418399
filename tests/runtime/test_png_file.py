"""PNG headers and whether a file is whole; cut at every byte, and changed at every byte."""

import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from samus_edge.errors import ImageFileError
from samus_edge.runtime.png_file import check_png, png_has_alpha, png_size_wh

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1)
MakePng = Callable[..., bytes]
MakeChunk = Callable[[bytes, bytes], bytes]


def test_the_size_is_width_then_height(make_png: MakePng) -> None:
    assert png_size_wh(make_png(PIXELS, 0)) == (7, 5)


def test_a_whole_file_passes(make_png: MakePng) -> None:
    check_png(make_png(PIXELS, 0))


def test_what_follows_the_last_chunk_is_ignored(make_png: MakePng) -> None:
    check_png(make_png(PIXELS, 0) + b"appended")


def test_a_file_cut_anywhere_is_truncated(make_png: MakePng) -> None:
    content = make_png(PIXELS, 0)
    for length in range(len(SIGNATURE), len(content)):
        with pytest.raises(ImageFileError, match="is truncated"):
            check_png(content[:length])


def test_a_changed_byte_anywhere_is_found(make_png: MakePng) -> None:
    content = make_png(PIXELS, 0)
    for position in range(len(SIGNATURE), len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x10
        with pytest.raises(ImageFileError, match=r"is (damaged|truncated)"):
            check_png(bytes(changed))


def test_missing_pixels_are_counted(make_png: MakePng) -> None:
    # Rows of 1 + 7 bytes: 5 are there, 6 are stated.
    content = make_png(PIXELS, 0, stated_wh=(7, 6))
    with pytest.raises(ImageFileError, match="pixels are missing, 8 of 48 bytes"):
        check_png(content)


def test_invalid_compressed_data_is_damage(make_png: MakePng, make_png_chunk: MakeChunk) -> None:
    header = make_png(PIXELS, 0)[:33]
    content = header + make_png_chunk(b"IDAT", b"no zlib") + make_png_chunk(b"IEND", b"")
    with pytest.raises(ImageFileError, match="its compressed pixels are invalid"):
        check_png(content)


def test_pixels_may_be_split_over_chunks(make_png: MakePng, make_png_chunk: MakeChunk) -> None:
    header = make_png(PIXELS, 0)[:33]
    raw = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    data = zlib.compress(raw)
    parts = [make_png_chunk(b"IDAT", bytes([byte])) for byte in data]
    check_png(header + b"".join(parts) + make_png_chunk(b"IEND", b""))


@pytest.mark.parametrize("size_wh", [(1, 1), (2, 3), (5, 1), (1, 5), (8, 8), (9, 17), (31, 33)])
@pytest.mark.parametrize(
    ("depth", "colour_type", "samples"), [(1, 0, 1), (8, 2, 3), (16, 6, 4), (4, 3, 1)]
)
def test_the_size_of_interlaced_pixels_is_known(
    make_png_chunk: MakeChunk,
    size_wh: tuple[int, int],
    depth: int,
    colour_type: int,
    samples: int,
) -> None:
    """Adam7 by its definition: which pass each pixel of an 8 x 8 block belongs to."""
    pattern = np.array(
        [
            [1, 6, 4, 6, 2, 6, 4, 6],
            [7, 7, 7, 7, 7, 7, 7, 7],
            [5, 6, 5, 6, 5, 6, 5, 6],
            [7, 7, 7, 7, 7, 7, 7, 7],
            [3, 6, 4, 6, 3, 6, 4, 6],
            [7, 7, 7, 7, 7, 7, 7, 7],
            [5, 6, 5, 6, 5, 6, 5, 6],
            [7, 7, 7, 7, 7, 7, 7, 7],
        ]
    )
    width, height = size_wh
    passes = np.tile(pattern, (-(-height // 8), -(-width // 8)))[:height, :width]
    size = 0
    for number in range(1, 8):
        for row in passes == number:
            columns = int(row.sum())
            size += 1 + (columns * depth * samples + 7) // 8 if columns else 0
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 1)

    def file_with(raw_bytes: int) -> bytes:
        chunks = make_png_chunk(b"IHDR", header)
        chunks += make_png_chunk(b"IDAT", zlib.compress(bytes(raw_bytes)))
        return SIGNATURE + chunks + make_png_chunk(b"IEND", b"")

    check_png(file_with(size))
    with pytest.raises(ImageFileError, match=f"pixels are missing, 1 of {size} bytes"):
        check_png(file_with(size - 1))


def test_opencv_files_pass() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    for level in (0, 9):
        _, content = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, level])
        check_png(bytes(content))


@pytest.mark.parametrize(
    ("colour_type", "samples", "has_alpha"),
    [(0, 1, False), (2, 3, False), (4, 2, True), (6, 4, True)],
)
def test_alpha_is_told_by_the_colour_type(
    make_png: MakePng, colour_type: int, samples: int, has_alpha: bool
) -> None:
    assert png_has_alpha(make_png(np.zeros((2, 2, samples), np.uint8), colour_type)) is has_alpha


def test_alpha_is_told_by_a_transparent_colour(
    make_png: MakePng, make_png_chunk: MakeChunk
) -> None:
    content = make_png(PIXELS, 0, extra=make_png_chunk(b"tRNS", b"\0\0"))
    assert png_has_alpha(content)


@pytest.mark.parametrize("kind", [b"IDAT", b"ihdr"])
def test_another_first_chunk_is_no_header(
    make_png: MakePng, make_png_chunk: MakeChunk, kind: bytes
) -> None:
    content = SIGNATURE + make_png_chunk(kind, make_png(PIXELS, 0)[16:29])
    with pytest.raises(ImageFileError, match="no valid PNG header"):
        png_size_wh(content)
