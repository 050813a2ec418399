"""What counts as an image, and how colour becomes grey."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from samus_edge.errors import ImageFileError
from samus_edge.runtime.images import image_io
from samus_edge.runtime.images.image_io import (
    MAX_IMAGE_PIXELS,
    grey_frame,
    read_image,
    scale_to_8_bits,
)


def test_grey_is_taken_as_it_is() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert grey_frame(image) is image


def test_a_view_becomes_contiguous() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)[::-1, ::2]
    frame = grey_frame(image)
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(frame, image)


def test_rgb_becomes_grey_by_the_luma_weights() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    expected = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    # OpenCV computes in fixed point and rounds: half a level, and a little.
    assert np.abs(grey_frame(image) - expected).max() <= 0.51


def test_the_order_of_channels_is_rgb() -> None:
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert grey_frame(red)[0, 0] == 76  # 0.299 * 255


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\). Drop the alpha channel"),
        (np.zeros((4, 5, 1), np.uint8), r"got \(4, 5, 1\). Drop the last axis"),
        (np.zeros((3, 4, 5), np.uint8), r"got \(3, 4, 5\). Channels come last"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"got \(2, 4, 5, 3\). Pass one image at a time"),
        (np.zeros(4, np.uint8), r"must have shape \(H, W\) or \(H, W, 3\), got \(4,\)"),
        (np.zeros((0, 4), np.uint8), "at least one pixel, got 4 x 0"),
        (np.zeros((4, 0, 3), np.uint8), "at least one pixel, got 0 x 4"),
        (
            np.broadcast_to(np.uint8(0), (8192, 8193)),
            f"8193 x 8192 pixels, more than the limit of {MAX_IMAGE_PIXELS}",
        ),
    ],
)
def test_other_shapes_are_refused(image: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grey_frame(image)


@pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.float32, np.bool_])
def test_other_dtypes_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match=f"must be uint8 .* got {np.dtype(dtype).name}"):
        grey_frame(np.zeros((4, 4), dtype))


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a numpy array, got list"):
        grey_frame([[0, 1], [2, 3]])


MakePng = Callable[..., bytes]
RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (11, 13), np.uint8)
GREY[0, 0] = 255  # so that a 16-bit copy has full depth
RGB = RNG.integers(0, 256, (11, 13, 3), np.uint8)
LOSSLESS = (".png", ".bmp", ".tiff")
# OpenCV's fixed-point grey: half a level, and a little.
GREY_TOLERANCE = 0.51


def luma(rgb: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """ITU-R BT.601 luma."""
    return np.asarray(rgb, np.float64) @ [0.299, 0.587, 0.114]


def write(path: Path, image: npt.NDArray[Any], options: tuple[int, ...] = ()) -> Path:
    """Write grey, RGB or RGBA in the format of the suffix."""
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    assert cv2.imwrite(str(path), image, list(options))
    return path


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_grey_of_8_bits_is_kept(tmp_path: Path, suffix: str) -> None:
    frame = read_image(write(tmp_path / f"x{suffix}", GREY))
    assert frame.dtype == np.uint8
    assert frame.flags.writeable  # torch warns of frames that are not
    np.testing.assert_array_equal(frame, GREY)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_rgb_becomes_luma(tmp_path: Path, suffix: str) -> None:
    frame = read_image(write(tmp_path / f"x{suffix}", RGB))
    assert np.abs(frame - luma(RGB)).max() <= GREY_TOLERANCE


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_grey_of_16_bits_at_full_depth_is_the_same_as_of_8(tmp_path: Path, suffix: str) -> None:
    frame = read_image(write(tmp_path / f"x{suffix}", GREY.astype(np.uint16) * 257))
    np.testing.assert_array_equal(frame, GREY)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_rgb_of_16_bits_becomes_luma(tmp_path: Path, suffix: str) -> None:
    image = RGB.astype(np.uint16) * 257
    image[0, 0] = 65535
    frame = read_image(write(tmp_path / f"x{suffix}", image))
    assert np.abs(frame - luma(image / 257)).max() <= GREY_TOLERANCE


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("factor", [1, 257])
def test_rgba_lies_over_black(tmp_path: Path, suffix: str, factor: int) -> None:
    alpha = np.tile(np.array([0, 51, 255], np.uint8), 50)[: 11 * 13].reshape(11, 13, 1)
    rgba = np.concatenate([RGB, alpha], axis=2).astype(np.uint8 if factor == 1 else np.uint16)
    rgba *= factor
    rgba[0, 0] = np.iinfo(rgba.dtype).max
    frame = read_image(write(tmp_path / f"x{suffix}", rgba))
    eight_bits = rgba / factor
    # Composited in 8 bits first: half a level more.
    expected = luma(eight_bits[..., :3]) * eight_bits[..., 3] / 255
    assert np.abs(frame - expected).max() <= 0.5 + GREY_TOLERANCE


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_with_alpha_lies_over_black(
    tmp_path: Path, make_png: MakePng, dtype: type[np.unsignedinteger[Any]]
) -> None:
    full = np.iinfo(dtype).max
    pixels = np.array([[[full, full], [full, 0], [full // 5, full], [full, full // 5]]], dtype)
    path = tmp_path / "x.png"
    path.write_bytes(make_png(pixels, 4))
    np.testing.assert_array_equal(read_image(path), [[255, 0, 51, 51]])


def test_hidden_colours_of_transparent_pixels_do_not_show(
    tmp_path: Path, make_png: MakePng
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(make_png(np.array([[[255, 255, 255, 0]] * 4], np.uint8), 6))
    np.testing.assert_array_equal(read_image(path), [[0, 0, 0, 0]])


def test_the_unused_fourth_byte_of_a_bmp_is_no_alpha(tmp_path: Path) -> None:
    # 1 x 1, 32 bits, BI_RGB: blue, green, red, and a byte that the format leaves unused.
    content = b"BM" + struct.pack("<IHHI", 58, 0, 0, 54)
    content += struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 32, 0, 4, 0, 0, 0, 0)
    path = tmp_path / "x.bmp"
    path.write_bytes(content + bytes([100, 100, 100, 0]))
    np.testing.assert_array_equal(read_image(path), [[100]])


def test_a_palette_is_resolved(tmp_path: Path, make_png_chunk: Callable[..., bytes]) -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + make_png_chunk(b"IHDR", header)
    content += make_png_chunk(b"PLTE", bytes([10, 10, 10, 200, 200, 200]))
    content += make_png_chunk(b"IDAT", zlib.compress(b"\0\1\0")) + make_png_chunk(b"IEND", b"")
    path = tmp_path / "x.png"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path), [[200, 10]])


def test_jpeg_is_read(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    frame = read_image(write(tmp_path / "x.jpg", smooth, (cv2.IMWRITE_JPEG_QUALITY, 100)))
    assert np.abs(frame.astype(int) - smooth).max() <= 2  # lossy


def test_an_orientation_tag_is_applied(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jpg", np.zeros((16, 40), np.uint8))
    content = path.read_bytes()
    # Exif with one entry: orientation (0x0112) 6, to be shown rotated by a quarter.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = struct.pack(">BBH", 0xFF, 0xE1, len(exif) + 2) + exif
    path.write_bytes(content[:2] + segment + content[2:])
    assert read_image(path).shape == (40, 16)


def test_of_several_pages_the_first_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    assert cv2.imwritemulti(str(path), [GREY, GREY[:5, :4]])
    np.testing.assert_array_equal(read_image(path), GREY)


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 50), (50, 1)])
def test_the_smallest_images_are_read(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    image = np.full(size_wh[::-1], 7, np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "x.png", image)), image)


def test_names_outside_ascii_are_read(tmp_path: Path) -> None:
    path = tmp_path / "Bild ü 图像.png"
    path.write_bytes(write(tmp_path / "x.png", GREY).read_bytes())
    np.testing.assert_array_equal(read_image(path), GREY)


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "x.png", GREY).rename(tmp_path / "x.dat")
    np.testing.assert_array_equal(read_image(path), GREY)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0, 1, 200], [0, 1, 200]),  # 8 bits in a 16-bit file
        ([0, 128, 255], [0, 128, 255]),
        ([0, 256, 1023], [0, 64, 255]),  # 10 bits: 256 * 255 / 1023 = 63.8
        ([0, 1024, 4095], [0, 64, 255]),  # 12 bits: 63.8
        ([0, 2000, 4000], [0, 125, 249]),  # 12 bits, not all used: 124.5, 249.1
        ([0, 4096, 16383], [0, 64, 255]),  # 14 bits
        ([0, 257, 32896, 65535], [0, 1, 128, 255]),  # 16 bits
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_16_bits_are_scaled_by_the_depth_that_holds_them(
    samples: list[int], expected: list[int]
) -> None:
    np.testing.assert_array_equal(scale_to_8_bits(np.array(samples, np.uint16)), expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff"])
@pytest.mark.parametrize("kept", [0.25, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str, kept: float
) -> None:
    image = RNG.integers(0, 256, (64, 64), np.uint8)
    path = write(tmp_path / f"cut{suffix}", image)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(
        ImageFileError, match=rf"cut\{suffix} is a \w+ file that is truncated or damaged"
    ):
        read_image(path)
    assert capfd.readouterr() == ("", "")  # no decoder wrote a word of its own


def test_a_huge_header_is_refused_before_decoding(
    tmp_path: Path, make_png: MakePng, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImageFile, "load", decode)
    path = tmp_path / "bomb.png"
    path.write_bytes(make_png(np.zeros((1, 1, 1), np.uint8), 0, stated_wh=(40000, 40000)))
    message = (
        r"bomb\.png has 40000 x 40000 pixels, .* limit of 16777216\. Crop it or scale it down\.$"
    )
    with pytest.raises(ImageFileError, match=message):
        read_image(path)


def test_a_header_that_promises_more_than_the_file_holds_is_damage(
    tmp_path: Path, make_png: MakePng
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(make_png(np.zeros((1, 1, 1), np.uint8), 0, stated_wh=(4000, 4000)))
    with pytest.raises(ImageFileError, match="is a PNG file that is truncated or damaged"):
        read_image(path)


def test_a_header_without_pixels_is_refused(tmp_path: Path, make_png: MakePng) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(make_png(np.zeros((1, 1, 1), np.uint8), 0, stated_wh=(0, 5)))
    with pytest.raises(ImageFileError, match="is a PNG file that is truncated or damaged"):
        read_image(path)


@pytest.mark.parametrize(
    "content",
    [b"text", b"\0" * 200, b"%PDF-1.7", b"\x89PN"],
)
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    message = (
        r"x\.png is not a PNG, JPEG, BMP, TIFF or WebP file\. Copy it again, or export it as PNG\.$"
    )
    with pytest.raises(ImageFileError, match=message):
        read_image(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.touch()
    with pytest.raises(ImageFileError, match=r"x\.png is empty"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"nowhere\.png does not exist"):
        read_image(tmp_path / "nowhere.png")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="is a folder"):
        read_image(tmp_path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageFileError, match="is not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate(image_io.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(ImageFileError, match="more than the limit of 1073741824"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_pixels_of_another_type_are_refused(tmp_path: Path, dtype: type) -> None:
    path = write(tmp_path / "x.tiff", np.zeros((4, 4), dtype))
    with pytest.raises(ImageFileError, match="has signed or floating-point pixels"):
        read_image(path)


def test_real_frames_are_read_as_opencv_reads_them(asset_frames: list[Any]) -> None:
    folder = Path(__file__).parents[2] / "assets" / "frames"
    for frame in asset_frames:
        np.testing.assert_array_equal(read_image(folder / frame.name), frame.image)


COLOUR = Image.fromarray(RGB)
ALPHA = Image.fromarray(np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)]))
SAVED: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "PNG": (COLOUR, {}),
    "PNG palette": (COLOUR.quantize(16), {}),
    "PNG alpha": (ALPHA, {}),
    "PNG 1 bit": (COLOUR.convert("1"), {}),
    "JPEG": (COLOUR, {"quality": 90}),
    "JPEG progressive": (COLOUR, {"progressive": True}),
    "JPEG CMYK": (COLOUR.convert("CMYK"), {}),
    "BMP": (COLOUR, {}),
    "TIFF": (COLOUR, {}),
    "TIFF LZW": (COLOUR, {"compression": "tiff_lzw"}),
    "TIFF deflate": (COLOUR, {"compression": "tiff_adobe_deflate"}),
    "WebP": (COLOUR, {"lossless": True}),
}


def saved(kind: str, **options: Any) -> bytes:
    """A file by Pillow."""
    image, given = SAVED[kind]
    stream = io.BytesIO()
    image.save(stream, kind.split()[0], **{**given, **options})
    return stream.getvalue()


@pytest.mark.parametrize("kind", SAVED)
def test_every_mode_becomes_luma(kind: str) -> None:
    expected = luma(np.asarray(Image.open(io.BytesIO(saved(kind))).convert("RGB")))
    frame = image_io.decode_image(saved(kind), Path("x"))
    assert np.abs(frame - expected).max() <= GREY_TOLERANCE


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG palette", "PNG alpha", "JPEG", "TIFF", "WebP"])
def test_every_orientation_is_applied_in_every_mode(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(kind, exif=exif)
    # The oracle: Pillow's own, which is told the orientation and no file.
    told = Image.fromarray(image_io.decode_image(saved(kind), Path("x")))
    told.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(told))
    np.testing.assert_array_equal(image_io.decode_image(content, Path("x")), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colour_of_16_bits_is_turned_as_colour_of_8_is(tmp_path: Path, orientation: int) -> None:
    deep = write(tmp_path / "x.png", RGB.astype(np.uint16) * 257).read_bytes()
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    end = 8 + 4 + 4 + 13 + 4  # of the first chunk
    frame = image_io.decode_image(deep[:end] + chunk + deep[end:], Path("x"))
    told = Image.Exif()
    told[0x0112] = orientation
    expected = image_io.decode_image(saved("PNG", exif=told), Path("x"))
    assert np.abs(frame.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_min_is_white_is_inverted(bits: int) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    samples = GREY.astype(dtype) * (1 if bits == 8 else 257)
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "TIFF", tiffinfo={262: 0})
    content = stream.getvalue()
    photometric = Image.open(io.BytesIO(content)).tag_v2[262]  # type: ignore[attr-defined]
    frame = image_io.decode_image(content, Path("x"))
    # Pillow inverts 8-bit samples as it writes them; 16-bit ones it writes as they are.
    inverted = photometric == 0 and bits == 16
    np.testing.assert_array_equal(frame, 255 - GREY if inverted else GREY)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_grey_is_black(
    make_png: MakePng, make_png_chunk: MakePng, depth: int
) -> None:
    dtype = np.uint8 if depth == 8 else np.uint16
    full = np.iinfo(dtype).max
    pixels = np.array([[[full], [9], [full]]], dtype)
    extra = make_png_chunk(b"tRNS", struct.pack(">H", 9))
    frame = image_io.decode_image(make_png(pixels, 0, extra=extra), Path("x"))
    np.testing.assert_array_equal(frame, [[255, 0, 255]])


@pytest.mark.parametrize("kind", SAVED)
def test_a_file_cut_anywhere_is_refused_or_read_whole(kind: str) -> None:
    content = saved(kind)
    whole = image_io.decode_image(content, Path("x"))
    refused = 0
    for end in range(0, len(content), max(1, len(content) // 60)):
        try:
            frame = image_io.decode_image(content[:end], Path("x"))
        except ImageFileError:
            refused += 1
        else:
            np.testing.assert_array_equal(frame, whole)
    assert refused >= 50


@pytest.mark.parametrize("kind", SAVED)
def test_a_changed_byte_never_crashes(kind: str) -> None:
    content = saved(kind)
    rng = np.random.default_rng(3)
    for _ in range(60):
        changed = bytearray(content)
        changed[int(rng.integers(len(changed)))] ^= int(rng.integers(1, 256))
        try:
            frame = image_io.decode_image(bytes(changed), Path("x"))
        except ImageFileError:
            continue
        assert frame.dtype == np.uint8 and frame.ndim == 2


def test_min_is_white_of_16_bits_is_inverted_in_big_endian_files_too(tmp_path: Path) -> None:
    samples = np.array([[0, 257, 65535], [25700, 128 * 257, 257]], np.uint16)  # n * 257: n of 255
    # Tags of TIFF 6.0; all values are SHORT.
    fields = {256: 3, 257: 2, 258: 16, 259: 1, 262: 0, 273: 8, 277: 1, 278: 2, 279: 12}
    directory = b"".join(
        struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in fields.items()
    )
    file = tmp_path / "white.tif"
    header = b"MM\0*" + struct.pack(">I", 20)
    count = struct.pack(">H", len(fields))
    file.write_bytes(header + samples.astype(">u2").tobytes() + count + directory + bytes(4))
    assert read_image(file).tolist() == [[255, 254, 0], [155, 127, 254]]


@pytest.mark.parametrize(
    "start",
    [b"RIFF\0\0\0\0AVI LIST", b"\0\0\0\x20ftypisom", b"\0\0\0\x14ftypqt  ", b"\x1aE\xdf\xa3\1"],
)
def test_a_video_is_pointed_to_track(start: bytes, tmp_path: Path) -> None:
    file = tmp_path / "cine"
    file.write_bytes(start + bytes(64))
    with pytest.raises(ImageFileError, match="samus-edge track"):
        read_image(file)


def test_a_still_in_a_videos_container_is_not_called_a_video(tmp_path: Path) -> None:
    file = tmp_path / "photo.heic"
    file.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with pytest.raises(ImageFileError, match="PNG, JPEG"):
        read_image(file)
