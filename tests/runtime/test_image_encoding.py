"""Encoding, seen through an independent decoding."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.errors import OutputFileError
from samus_edge.runtime.image_encoding import encode_image


def test_grey_is_kept() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = encode_image(Path("x.PNG"), image)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, image)


def test_rgb_is_written_as_rgb() -> None:
    red = np.array([[[255, 0, 0]]], np.uint8)
    content = encode_image(Path("x.png"), red)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, [[[0, 0, 255]]])  # OpenCV's order is BGR


@pytest.mark.parametrize(
    ("name", "signature"), [("x.png", b"\x89PNG"), ("x.jpg", b"\xff\xd8"), ("x.JPEG", b"\xff\xd8")]
)
def test_the_suffix_names_the_format(name: str, signature: bytes) -> None:
    assert encode_image(Path(name), np.zeros((8, 8), np.uint8)).startswith(signature)


def test_what_opencv_cannot_encode_is_named() -> None:
    with pytest.raises(OutputFileError, match=r"x\.nothing cannot be encoded"):
        encode_image(Path("x.nothing"), np.zeros((8, 8), np.uint8))
