"""`samus-edge infer`: one document, whole files, and no torch."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge import __version__

Run = Callable[..., Any]
NOT_IN_THE_BASE_INSTALL = ("torch", "torchvision", "onnx", "pywt", "safetensors", "yaml")
TIMINGS = ("read", "load", "encode", "decode", "write", "total")


def read_image_file(path: Path) -> npt.NDArray[np.uint8]:
    """A file's pixels, by OpenCV."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels.astype(np.uint8)


def test_json_is_one_document(run: Run, image: Path, box: str, bundle: Path) -> None:
    outcome = run("infer", "--image", image, "--box", box, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)  # fails where anything else was printed
    assert document["image"]["path"] == str(image)
    assert (document["image"]["width"], document["image"]["height"]) == (384, 384)
    (mask,) = document["masks"]
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
    mask = read_image_file(mask_file)
    assert mask.shape == (384, 384)
    assert set(np.unique(mask)) <= {0, 255}
    assert np.count_nonzero(mask) == document["masks"][0]["area_px"]
    assert read_image_file(overlay_file).shape[2] == 3
    names = sorted(path.name for path in image.parent.iterdir())
    assert names == ["image.png", "mask.png", "overlay.png"]


def test_a_zip_gives_the_masks_of_its_folder(
    run: Run, image: Path, box: str, bundle: Path, tmp_path: Path
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "model"), "zip", bundle))
    folder, zipped = (
        json.loads(run("infer", "--image", image, "--box", box, "--bundle", given, "--json").stdout)
        for given in (bundle, path)
    )
    assert zipped["masks"] == folder["masks"]
    assert zipped["bundle"] == folder["bundle"] | {"path": str(path)}


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
        {
            "box": None,
            "points": [[50, 60, 1], [90, 100, 0]],
            "was_clipped": False,
            "proposal_score": None,
        }
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
    assert mask["prompt"] == {
        "box": [-0.5, -0.5, 200, 383.5],
        "points": [],
        "was_clipped": True,
        "proposal_score": None,
    }


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
