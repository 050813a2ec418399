"""Image files written byte by byte."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    colour_type: int,
    *,
    stated_wh: tuple[int, int] | None = None,
    extra: bytes = b"",
) -> bytes:
    """A PNG without filters or interlacing, by the specification and not by OpenCV.

    Args:
        pixels: (H, W, samples), uint8 or uint16; samples as the colour type asks for.
        colour_type: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha.
        stated_wh: (W, H) for the header to state instead of the true one.
        extra: chunks between header and pixels.
    """
    height, width = pixels.shape[:2]
    stated_width, stated_height = stated_wh or (width, height)
    depth = pixels.dtype.itemsize * 8
    header = struct.pack(">IIBBBBB", stated_width, stated_height, depth, colour_type, 0, 0, 0)
    rows = [b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels]
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + png_chunk(b"IEND", b"")
    )


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    """`png_file`."""
    return png_file


@pytest.fixture(scope="session")
def make_png_chunk() -> Callable[[bytes, bytes], bytes]:
    """`png_chunk`."""
    return png_chunk
