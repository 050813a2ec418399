"""`samus-edge infer`: one document, whole files, and one line for everything that can go wrong."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge import __version__
from samus_edge.runtime.bundle import default_bundle_folder

Run = Callable[..., Any]
NOT_IN_THE_BASE_INSTALL = ("torch", "torchvision", "onnx", "pywt", "safetensors", "yaml")
TIMINGS = ("read", "load", "encode", "decode", "write", "total")


@pytest.fixture(scope="session")
def frame(asset_frames: list[Any]) -> Any:
    """A real frame of 384 x 384 pixels or so, with its lesion's box."""
    return next(frame for frame in asset_frames if frame.image.shape == (384, 384))


@pytest.fixture
def image(frame: Any, tmp_path: Path) -> Path:
    """The frame as a file in a folder of its own."""
    path = tmp_path / "image.png"
    assert cv2.imwrite(str(path), frame.image)
    return path


@pytest.fixture
def box(frame: Any) -> str:
    """The lesion's box as the option takes it."""
    return ",".join(f"{value:g}" for value in frame.box)


def read_png(path: Path) -> npt.NDArray[np.uint8]:
    """A file's pixels, by OpenCV."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels.astype(np.uint8)


def test_json_is_one_document(run: Run, image: Path, box: str, bundle: Path) -> None:
    outcome = run("infer", "--image", image, "--box", box, "--bundle", bundle, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)  # fails where anything else was printed
    assert document["image"]["path"] == str(image)
    assert (document["image"]["width"], document["image"]["height"]) == (384, 384)
    (mask,) = document["masks"]
    assert set(mask) == {"area_px", "box", "predicted_iou", "prompt"}
    assert mask["prompt"]["box"] == [float(value) for value in box.split(",")]
    assert set(document["timings_ms"]) == set(TIMINGS)
    assert document["backend"] == "onnxruntime"
    assert document["precision"] == "fp32"
    assert document["bundle"]["path"] == str(bundle)
    assert document["versions"]["samus_edge"] == __version__


def test_files_agree_with_the_document(run: Run, image: Path, box: str, bundle: Path) -> None:
    mask_file, overlay_file = image.with_name("mask.png"), image.with_name("overlay.png")
    outputs = ("--out", mask_file, "--overlay", overlay_file)
    outcome = run("infer", "--image", image, "--box", box, "--bundle", bundle, "--json", *outputs)
    document = json.loads(outcome.stdout)
    assert document["mask_file"] == str(mask_file)
    assert document["overlay_file"] == str(overlay_file)
    mask = read_png(mask_file)
    assert mask.shape == (384, 384)
    assert set(np.unique(mask)) <= {0, 255}
    assert np.count_nonzero(mask) == document["masks"][0]["area_px"]
    if mask.any():
        rows, columns = np.nonzero(mask)
        around = [columns.min(), rows.min(), columns.max(), rows.max()]
        assert document["masks"][0]["box"] == around
    assert read_png(overlay_file).shape[2] == 3
    assert sorted(path.name for path in image.parent.iterdir()) == [
        "image.png",
        "mask.png",
        "overlay.png",
    ]


def test_without_json_there_are_lines_for_people(
    run: Run, image: Path, box: str, bundle: Path
) -> None:
    outcome = run("infer", "--image", image, "--box", box, "--bundle", bundle)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith(f"{image}: 384 x 384 pixels\n  mask 1: ")
    assert "onnxruntime" in outcome.stdout
    assert "Not a medical device" in outcome.stdout


def test_several_boxes_points_and_both(run: Run, image: Path, bundle: Path) -> None:
    common = ("infer", "--image", image, "--bundle", bundle, "--json", "--threads", 1)
    boxes = ("--box", "10,20,100,120", "--box", "150,160,300,310")
    points = ("--point", "50,60", "--point", "90,100,0")

    two = json.loads(run(*common, *boxes).stdout)
    assert [mask["prompt"]["points"] for mask in two["masks"]] == [[], []]
    assert two["threads"] == 1

    one = json.loads(run(*common, *points).stdout)
    assert [mask["prompt"] for mask in one["masks"]] == [
        {"box": None, "points": [[50, 60, 1], [90, 100, 0]], "was_clipped": False}
    ]

    both = json.loads(run(*common, *boxes, *points).stdout)
    assert [len(mask["prompt"]["points"]) for mask in both["masks"]] == [2, 0]
    # The second box has no point: nothing about it has changed.
    assert both["masks"][1] == two["masks"][1]


def test_a_box_partly_outside_is_cut_to_the_image(run: Run, image: Path, bundle: Path) -> None:
    outcome = run(
        *("infer", "--image", image, "--bundle", bundle, "--json"), "--box", "-40,-40,200,1000"
    )
    (mask,) = json.loads(outcome.stdout)["masks"]
    assert mask["prompt"] == {"box": [-0.5, -0.5, 200, 383.5], "points": [], "was_clipped": True}


def test_the_same_pixels_in_another_kind_of_file_give_the_same_mask(
    run: Run, frame: Any, tmp_path: Path, box: str, bundle: Path
) -> None:
    grey = frame.image.copy()
    grey[0, 0] = 255  # so that the 16-bit file has full depth
    rgb = np.repeat(grey[..., None], 3, axis=2)
    opaque = np.full((*grey.shape, 1), 255, np.uint8)
    kinds = {
        "grey8.png": grey,
        "grey16.png": grey.astype(np.uint16) * 257,
        "rgb.png": rgb,
        "rgba.png": np.concatenate([rgb, opaque], axis=2),
        "grey8.bmp": grey,
        "grey16.tiff": grey.astype(np.uint16) * 257,
    }
    masks = []
    for name, pixels in kinds.items():
        path, mask_file = tmp_path / name, tmp_path / f"mask_{name}.png"
        assert cv2.imwrite(str(path), pixels)
        arguments = ("--image", path, "--box", box, "--bundle", bundle, "--out", mask_file)
        assert run("infer", *arguments).exit_code == 0
        masks.append(read_png(mask_file))
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_the_default_bundle_is_found(run: Run, image: Path, box: str) -> None:
    if not default_bundle_folder().is_dir():
        pytest.skip(f"this checkout has no default bundle in {default_bundle_folder()}")
    outcome = run("infer", "--image", image, "--box", box, "--json")
    assert json.loads(outcome.stdout)["bundle"]["path"] == str(default_bundle_folder())


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
        # Other arguments.
        ((*GOOD, "--threads", "0"), 2, "threads must be from 1 to 256, got 0"),
        ((*GOOD, "--threads", "two"), 2, "--threads 'two' is not an integer"),
        ((*GOOD, "--backend", "cuda"), 2, "got 'cuda'"),
        ((*GOOD, "--backend", "tensorrt"), 1, "the TensorRT backend is not part of samus-edge"),
        ((*GOOD, "--precision", "fp8"), 2, "got 'fp8'"),
        ((*GOOD, "--precision", "int8"), 1, "image encoder in fp32, not in int8"),
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
    common = ["--image", image, "--overlay", folder / "overlay.png", "--json"]
    if "--bundle" not in given:
        common += ["--bundle", bundle]
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
        ("text.png", b"not an image\n", "text.png is not a PNG, JPEG, BMP or TIFF file"),
        ("huge.png", HUGE_PNG, "huge.png has 40000 x 40000 pixels, more than the limit"),
        ("cut.png", "{half}", "cut.png is truncated"),
        ("cut.jpg", "{half}", "cut.jpg is truncated"),
        ("cut.bmp", "{half}", "cut.bmp is truncated"),
        ("cut.tiff", "{half}", "cut.tiff is truncated"),
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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("tamper", "image_encoder.onnx has SHA-256"),
        ("remove", "mask_decoder.onnx is missing"),
        ("newer", "format version 2.0, and samus-edge"),
    ],
)
def test_a_bad_bundle_is_one_line_and_writes_nothing(
    run: Run, image: Path, bundle: Path, tmp_path: Path, damage: str, message: str
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    if damage == "tamper":
        content = bytearray((copy / "image_encoder.onnx").read_bytes())
        content[-1] ^= 1
        (copy / "image_encoder.onnx").write_bytes(content)
    elif damage == "remove":
        (copy / "mask_decoder.onnx").unlink()
    else:
        manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
        manifest["format_version"] = "2.0"
        (copy / "manifest.json").write_text(json.dumps(manifest))
    mask_file = tmp_path / "mask.png"
    outcome = run("infer", "--image", image, *GOOD, "--bundle", copy, "--out", mask_file)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not mask_file.exists()


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


def test_a_fresh_interpreter_segments_without_torch(image: Path, box: str, bundle: Path) -> None:
    code = (
        "import sys\n"
        "from samus_edge.cli.app import main\n"
        "exit_code = main(sys.argv[1:])\n"
        f"loaded = sorted(set({NOT_IN_THE_BASE_INSTALL!r}) & set(sys.modules))\n"
        "print('LOADED', loaded, file=sys.stderr)\n"
        "sys.exit(exit_code)\n"
    )
    outputs = ["--out", image.with_name("m.png"), "--overlay", image.with_name("o.png"), "--json"]
    arguments = ["infer", "--image", image, "--box", box, "--bundle", bundle, *outputs]
    command = [sys.executable, "-I", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "LOADED []\n"
    assert json.loads(done.stdout)["mask_file"] == str(image.with_name("m.png"))


def test_a_name_that_is_no_text_is_printed_all_the_same(
    frame: Any, tmp_path: Path, box: str, bundle: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1, in a UTF-8 world
    try:
        _, content = cv2.imencode(".png", frame.image)
        (tmp_path / name).write_bytes(bytes(content))
    except OSError:
        pytest.skip("this file system takes only names that are text")
    arguments = ["infer", "--image", str(tmp_path / name), "--box", box, "--bundle", str(bundle)]
    command = [sys.executable, "-I", "-m", "samus_edge.cli.app", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf\\udce9.png: 384 x 384 pixels" in done.stdout
