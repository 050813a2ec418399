"""`samus-edge infer`: one line for everything that can go wrong, and nothing written."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

Run = Callable[..., Any]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png() -> bytes:
    """A small, valid file whose header states 40000 x 40000 pixels."""
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


HUGE_PNG = huge_png()
GOOD = ("--box", "10,20,200,220")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        # Prompts.
        ((), 2, "no prompt was given"),
        (("--box", "10,20,200"), 2, "'10,20,200' has 3 numbers, expected 4"),
        (("--box", "200,20,10,220"), 2, "(200, 20, 10, 220) is inverted: x1 > x2"),
        (("--box", "nan,20,200,220"), 2, "(nan, 20, 200, 220) is not finite"),
        (("--box", "10,20,inf,220"), 2, "(10, 20, inf, 220) is not finite"),
        (("--box", "10,20,10,220"), 2, "(10, 20, 10, 220) has no area"),
        (("--box", "400,20,500,220"), 2, "(400, 20, 500, 220) is outside the image of 384 x 384"),
        ((*GOOD, "--box", "a,b,c,d"), 2, "'a,b,c,d' is not numbers"),
        (("--point", "10"), 2, "'10' has 1 numbers"),
        (("--point", "384,20"), 2, "point (384, 20) is outside the image of 384 x 384"),
        (("--point", "nan,20"), 2, "point (nan, 20) is not finite"),
        (("--point", "10,20,3"), 2, "has the label 3"),
        (
            (*GOOD, "--box", "250,250,300,300", "--point", "380,5"),
            2,
            "point (380, 5) lies in none of the 2 boxes",
        ),
        (("--box", "0,0,9,9") * 256 + ("--out", "{folder}/m.png"), 2, "at most 255 masks"),
        # Other arguments.
        ((*GOOD, "--side", "up", "--clock", "13"), 2, "left or right, got 'up'; the hour"),
        ((*GOOD, "--box", "50,50,90,90", "--side", "left", "--depth", "9"), 2, "are 2 prompts"),
        ((*GOOD, "--threads", "0"), 2, "threads must be from 1 to 256, got 0"),
        ((*GOOD, "--threads", "two"), 2, "'two'"),
        ((*GOOD, "--threads=two"), 2, "'two'"),
        ((*GOOD, "--backend", "cuda"), 2, "got 'cuda'"),
        ((*GOOD, "--backend", "onnxruntime-cuda"), 1, "has no execution provider for CUDA"),
        ((*GOOD, "--precision", "fp8"), 2, "got 'fp8'"),
        ((*GOOD, "--precision", "int8"), 1, "is in fp32, not in int8"),
        ((*GOOD, "--bundle", "{folder}/nowhere"), 1, "nowhere does not exist"),
        ((*GOOD, "--bundle", "{folder}"), 1, "manifest.json cannot be read"),
        # Outputs.
        ((*GOOD, "--out", "{folder}/m.jpg"), 2, "the mask must be a file ending in .png"),
        ((*GOOD, "--out", "{folder}/image.png"), 2, "the mask would overwrite the input image"),
        ((*GOOD, "--overlay", "{folder}/image.png"), 2, "the overlay would overwrite the input"),
        ((*GOOD, "--out", "{folder}/overlay.png"), 2, "mask and overlay are the same file"),
        ((*GOOD, "--out", "{folder}/nowhere/m.png"), 1, "a folder that does not exist"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(
    run: Run,
    image: Path,
    bundle: Path,
    arguments: tuple[str, ...],
    exit_code: int,
    message: str,
) -> None:
    folder = image.parent
    given = [argument.format(folder=folder) for argument in arguments]
    common = ["--image", image, "--json"]
    for option, value in (("--overlay", folder / "overlay.png"), ("--bundle", bundle)):
        if option not in given:
            common += [option, value]
    before = image.read_bytes()
    outcome = run("infer", *common, *given)
    assert (outcome.exit_code, outcome.stdout) == (exit_code, "")
    assert outcome.stderr.startswith("error: ")
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert [*folder.iterdir()] == [image]
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "missing.png does not exist"),
        ("empty.png", b"", "empty.png is empty"),
        ("text.png", b"not an image\n", "text.png is not a PNG, JPEG, BMP, TIFF or WebP file"),
        ("huge.png", HUGE_PNG, "huge.png has 40000 x 40000 pixels, more than the limit"),
        ("cut.png", "{half}", "cut.png is a PNG file that is truncated or damaged"),
        ("cut.jpg", "{half}", "cut.jpg is a JPEG file that is truncated or damaged"),
        ("cut.bmp", "{half}", "cut.bmp is a BMP file that is truncated or damaged"),
        ("cut.tiff", "{half}", "cut.tiff is a TIFF file that is truncated or damaged"),
        (".", None, "is a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_image_is_one_line_and_writes_nothing(
    run: Run,
    frame: Any,
    bundle: Path,
    tmp_path: Path,
    name: str,
    content: bytes | str | None,
    message: str,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / name
    if content == "{half}":
        _, encoded = cv2.imencode(path.suffix, frame.image)
        content = bytes(encoded)[: len(encoded) // 2]
    if isinstance(content, bytes):
        path.write_bytes(content)
    before = [*folder.iterdir()]
    outputs = ("--out", folder / "mask.png", "--overlay", folder / "overlay.png")
    outcome = run("infer", "--image", path, *GOOD, "--bundle", bundle, "--json", *outputs)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert [*folder.iterdir()] == before


def test_a_full_disk_keeps_the_old_file(
    run: Run, image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask_file = image.with_name("mask.png")
    mask_file.write_bytes(b"an older mask")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    outcome = run("infer", "--image", image, *GOOD, "--bundle", bundle, "--out", mask_file)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert "mask.png cannot be written (No space left on device)" in outcome.stderr
    assert mask_file.read_bytes() == b"an older mask"
    assert sorted(path.name for path in image.parent.iterdir()) == ["image.png", "mask.png"]
