"""TIFF directories and whether a file is whole."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.errors import ImageFileError
from samus_edge.runtime.images.file_checks import (
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
from samus_edge.runtime.images.image_io import read_image

UNCOMPRESSED, LZW, DEFLATE = 1, 5, 8


def tiff(compression: int = UNCOMPRESSED, shape: tuple[int, ...] = (40, 30)) -> bytes:
    """A TIFF as OpenCV writes it."""
    image = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
    _, content = cv2.imencode(".tiff", image, options)
    return bytes(content)


def handmade_tiff(
    order: str, big: bool, pixels: bytes = bytes(6), samples_per_pixel: int = 1
) -> bytes:
    """A grey TIFF of 3 x 2 pixels with one strip, by the specification.

    Args:
        order: "<" or ">".
        big: whether it is a BigTIFF.
        pixels: what follows the directory.
        samples_per_pixel: 1, or 2 with alpha.
    """
    entries = [
        (256, 3),
        (257, 2),
        (258, 8),
        (259, 1),
        (262, 1),
        (277, samples_per_pixel),
        (278, 2),
        (279, 6),
    ]
    offset, count, head = ("Q", "Q", 16) if big else ("I", "H", 8)
    directory_bytes = struct.calcsize(f"<{count}{offset}") + (len(entries) + 1) * (
        20 if big else 12
    )
    entries.append((273, head + directory_bytes))
    mark = b"II" if order == "<" else b"MM"
    header = mark + struct.pack(
        order + ("HHHQ" if big else "HI"), *((43, 8, 0, head) if big else (42, head))
    )
    directory = struct.pack(order + count, len(entries))
    for tag, value in sorted(entries):
        directory += struct.pack(f"{order}HH{offset}", tag, 4, 1)
        directory += struct.pack(order + "I", value) + bytes(4 if big else 0)
    return header + directory + struct.pack(order + offset, 0) + pixels


@pytest.mark.parametrize("compression", [UNCOMPRESSED, LZW, DEFLATE])
@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 3), (40, 30, 4)])
def test_a_whole_file_passes(compression: int, shape: tuple[int, ...]) -> None:
    content = tiff(compression, shape)
    check_tiff(content)
    assert tiff_size_wh(content) == (30, 40)


@pytest.mark.parametrize("compression", [UNCOMPRESSED, LZW, DEFLATE])
def test_a_file_cut_anywhere_is_truncated(compression: int) -> None:
    content = tiff(compression)
    for length in (*range(8, len(content) - 20, 11), len(content) // 2):
        with pytest.raises(ImageFileError, match="is truncated"):
            check_tiff(content[:length])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_both_byte_orders_and_bigtiff_are_read(order: str, big: bool) -> None:
    content = handmade_tiff(order, big)
    assert tiff_size_wh(content) == (3, 2)
    check_tiff(content)
    with pytest.raises(ImageFileError, match="is truncated: 1 bytes of its pixels are missing"):
        check_tiff(handmade_tiff(order, big, bytes(5)))


def test_a_directory_without_pixels_is_damage() -> None:
    content = handmade_tiff("<", False).replace(struct.pack("<H", 273), struct.pack("<H", 700), 1)
    with pytest.raises(ImageFileError, match="does not say where its pixels are"):
        check_tiff(content)


def test_a_directory_without_size_is_damage() -> None:
    content = handmade_tiff("<", False).replace(struct.pack("<H", 256), struct.pack("<H", 700), 1)
    with pytest.raises(ImageFileError, match="does not state its size"):
        tiff_size_wh(content)


def test_a_huge_count_is_refused_before_memory_is_taken() -> None:
    content = bytearray(handmade_tiff("<", False))
    struct.pack_into("<I", content, 8 + 2 + 4, 0xFFFFFFFF)  # count of the first entry
    with pytest.raises(ImageFileError, match="beyond its end"):
        tiff_size_wh(bytes(content))


def test_alpha_is_told_by_the_number_of_samples() -> None:
    assert tiff_has_alpha(tiff(shape=(4, 4, 4)))
    assert not tiff_has_alpha(tiff(shape=(4, 4, 3)))


def test_grey_with_alpha_is_refused_because_opencv_drops_the_alpha(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    path.write_bytes(handmade_tiff("<", False, bytes(12), samples_per_pixel=2))
    with pytest.raises(ImageFileError, match="grey TIFF with transparency, which is not supported"):
        read_image(path)


def bmp(shape: tuple[int, ...] = (5, 7)) -> bytes:
    """A BMP as OpenCV writes it."""
    _, content = cv2.imencode(".bmp", np.full(shape, 9, np.uint8))
    return bytes(content)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_bmp_file_a_whole_file_passes(shape: tuple[int, ...]) -> None:
    check_bmp(bmp(shape))
    assert bmp_size_wh(bmp(shape)) == (7, 5)


def test_bmp_file_a_file_cut_anywhere_is_truncated() -> None:
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


SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1)
MakePng = Callable[..., bytes]
MakeChunk = Callable[[bytes, bytes], bytes]


def test_the_size_is_width_then_height(make_png: MakePng) -> None:
    assert png_size_wh(make_png(PIXELS, 0)) == (7, 5)


def test_png_file_a_whole_file_passes(make_png: MakePng) -> None:
    check_png(make_png(PIXELS, 0))


def test_what_follows_the_last_chunk_is_ignored(make_png: MakePng) -> None:
    check_png(make_png(PIXELS, 0) + b"appended")


def test_png_file_a_file_cut_anywhere_is_truncated(make_png: MakePng) -> None:
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
def test_jpeg_file_a_whole_file_passes(options: list[int], colour: bool) -> None:
    content = jpeg(options, colour)
    check_jpeg(content)
    assert jpeg_size_wh(content) == (75, 49)


@pytest.mark.parametrize("options", [BASELINE, PROGRESSIVE, RESTARTS])
def test_jpeg_file_a_file_cut_anywhere_is_truncated(options: list[int]) -> None:
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
