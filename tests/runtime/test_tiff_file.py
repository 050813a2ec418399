"""TIFF directories and whether a file is whole."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.errors import ImageFileError
from samus_edge.runtime.image_io import read_image
from samus_edge.runtime.tiff_file import check_tiff, tiff_has_alpha, tiff_size_wh

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
