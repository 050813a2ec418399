"""The command `samus-edge verify`."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer

from samus_edge.cli.app import app
from samus_edge.runtime.bundle.manifest import Manifest

Run = Callable[..., Any]


@pytest.fixture
def options(disc_lesions: Path) -> list[object]:
    """The dataset."""
    return ["--data", disc_lesions, "--split", disc_lesions.parent / "split.json"]


@pytest.fixture
def wrong_bundle(disc_precisions: Callable[..., Path], make_precision: Any) -> Path:
    """An fp16 whose discs are smaller by 4 of 42 pixels, and an int8 that is the reference
    again."""
    return disc_precisions({"fp16": make_precision(logit_shift=-4), "int8": make_precision()})


def test_all_limits_hold(run: Run, wrong_bundle: Path, options: list[object]) -> None:
    before = (wrong_bundle / "manifest.json").read_bytes()
    outcome = run("verify", "--bundle", wrong_bundle, *options, "--precision", "int8")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "all 5 hold" in outcome.stdout and "not judged" in outcome.stdout
    assert "fp16" not in outcome.stdout
    assert (wrong_bundle / "manifest.json").read_bytes() == before


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_another_backend_is_compared_with_onnx_runtime(
    run: Run, disc_bundle: Path, options: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    arguments = ("--bundle", disc_bundle, "--backend", "openvino", *options, "--out", out)
    assert run("verify", *arguments).exit_code == 0
    document = json.loads(out.read_text())
    assert document["backend"].startswith("openvino 2")
    assert list(document["precisions"]) == ["fp32"]


def test_a_failed_limit_is_a_line_and_exit_code_1(
    run: Run, wrong_bundle: Path, options: list[object], tmp_path: Path
) -> None:
    out, page = tmp_path / "verification.json", tmp_path / "pages"
    page.mkdir()
    outcome = run("verify", "--bundle", wrong_bundle, *options, "--out", out, "--html", page)
    assert outcome.exit_code == 1
    box, point = outcome.stderr.splitlines()
    start, end = "failed: fp16: Dice drop with centre_point: ", " points, allowed 0.2 points"
    assert point.startswith(start) and point.endswith(end)
    # 100 * (1 - 2 * 38^2 / (38^2 + 42^2)), but for the pixels that a contour cuts.
    assert float(point[len(start) : -len(end)]) == pytest.approx(9.975, abs=0.3)
    assert box.startswith("failed: fp16: Dice drop with box_5%: ")
    assert "2 failed" in outcome.stdout
    document = json.loads(out.read_text())
    assert document["passed"] is False and document["subset"] == "val"
    assert (document["images"], document["lesions"]) == (2, 3)
    assert [each["passed"] for each in document["precisions"].values()] == [True, False, True]
    assert document["precisions"]["fp16"]["figures"]["protocols"][1]["dice_drop"] > 9
    assert document["command"] == (
        "samus-edge verify --bundle discs --data lesions --split split.json --html pages "
        "--out verification.json"
    )
    assert "data:image/jpeg" in (page / "verification.html").read_text()
    assert Manifest.read(wrong_bundle / "manifest.json").verification == {}


def test_the_recorded_command_runs_again_as_it_stands(
    run: Run,
    wrong_bundle: Path,
    disc_lesions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "our lesions"
    shutil.copytree(disc_lesions, folder)
    given: dict[str, object] = {
        "--bundle": wrong_bundle,
        "--data": folder,
        "--split": disc_lesions.parent / "split.json",
        "--subset": "val",
        "--precision": "fp16",
        "--limit": 20000000,
        "--max-drop": 0.1234567891,
        "--seed": 20261128,
    }
    arguments = [str(each) for option in given.items() for each in option]
    assert run("verify", *arguments, "--allow-failing", "--record").exit_code == 0
    entries: Any = Manifest.read(wrong_bundle / "manifest.json").verification
    program, *words = shlex.split(entries["fp16"]["command"])
    assert program == "samus-edge" and words[0] == "verify"

    def parsed(arguments: list[str]) -> dict[str, object]:
        command: Any = typer.main.get_command(app)
        return dict(command.commands["verify"].make_context("verify", list(arguments)).params)

    # Names of folders stand for their places, so it runs where they are.
    monkeypatch.chdir(tmp_path)
    places: Any = {"bundle": wrong_bundle, "data": folder, "split": given["--split"]}
    assert all(place.parent == tmp_path for place in places.values())
    names = {name: Path(place.name) for name, place in places.items()}
    assert parsed(words[1:]) == parsed([*arguments, "--allow-failing", "--record"]) | names
    assert run(*words).exit_code == 0


def test_what_is_allowed_to_fail_is_recorded(
    run: Run, wrong_bundle: Path, options: list[object]
) -> None:
    arguments = ["verify", "--bundle", wrong_bundle, *options, "--record"]
    assert run(*arguments).exit_code == 1
    entries: Any = Manifest.read(wrong_bundle / "manifest.json").verification
    assert entries["fp16"]["passed"] is False and "allowed_failing" not in entries["fp16"]
    outcome = run(*arguments, "--allow-failing")
    assert outcome.exit_code == 0
    assert outcome.stderr.startswith("allowed: fp16: Dice drop")
    entries = Manifest.read(wrong_bundle / "manifest.json").verification
    assert entries["fp16"]["passed"] is False and entries["fp16"]["allowed_failing"] is True
    assert entries["int8"]["passed"] is True and "allowed_failing" not in entries["int8"]
    assert str(wrong_bundle.parent) not in json.dumps(entries)
    assert "verification" in run("info", "--bundle", wrong_bundle).stdout


def test_the_budget_can_be_given(run: Run, wrong_bundle: Path, options: list[object]) -> None:
    outcome = run("verify", "--bundle", wrong_bundle, *options, "--max-drop", "15")
    assert (outcome.exit_code, outcome.stderr) == (0, "")


def test_a_limit_of_lesions_and_another_subset(
    run: Run, wrong_bundle: Path, options: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    arguments = ["verify", "--bundle", wrong_bundle, *options, "--precision", "fp32"]
    assert run(*arguments, "--limit", 2, "--seed", 4, "--out", out).exit_code == 0
    document = json.loads(out.read_text())
    assert (document["lesions"], document["seed"]) == (2, 4)
    assert run(*arguments, "--subset", "test", "--out", out).exit_code == 0
    document = json.loads(out.read_text())
    assert (document["lesions"], document["subset"]) == (1, "test")


def test_frames_without_masks(run: Run, wrong_bundle: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    assert cv2.imwrite(str(frames / "a.png"), np.full((256, 256), 51, np.uint8))
    outcome = run("verify", "--bundle", wrong_bundle, "--frames", frames)
    assert outcome.exit_code == 1
    assert len(outcome.stderr.splitlines()) == 6  # mean and worst mask IoU of three prompts
    assert "true masks are not known" in outcome.stdout
    arguments = ["verify", "--bundle", wrong_bundle, "--frames", frames, "--precision", "int8"]
    assert run(*arguments).exit_code == 0


def test_a_zip_is_verified_and_never_written(
    run: Run, wrong_bundle: Path, options: list[object], tmp_path: Path
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", wrong_bundle))
    before = path.read_bytes()
    arguments = ["verify", "--bundle", path, *options, "--precision", "int8"]
    assert run(*arguments).exit_code == 0
    out = tmp_path / "out.json"
    outcome = run(*arguments, "--record", "--out", out)
    assert outcome.exit_code == 1
    assert "zipped.zip is a zip file, which is only read. Unpack it" in outcome.stderr
    assert path.read_bytes() == before
    assert not out.exists()  # refused before the work


def test_graphs_that_give_nan_fail_in_a_line(
    run: Run, disc_precisions: Callable[..., Path], make_precision: Any, options: list[object]
) -> None:
    folder = disc_precisions({"fp16": make_precision(logit_shift=float("nan"))})
    outcome = run("verify", "--bundle", folder, *options, "--record")
    assert outcome.exit_code == 1
    assert outcome.stderr.splitlines()[0] == (
        "failed: fp16: frames and prompts with NaN or infinite values: 6, allowed 0"
    )
    entries: Any = Manifest.read(folder / "manifest.json").verification
    assert entries["fp16"]["figures"]["not_finite_prompts"] == 6


def test_a_damaged_bundle_is_exit_code_1(
    run: Run, wrong_bundle: Path, options: list[object]
) -> None:
    with (wrong_bundle / "mask_decoder.onnx").open("ab") as file:
        file.write(b"x")
    outcome = run("verify", "--bundle", wrong_bundle, *options)
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith("error: ") and "mask_decoder.onnx" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --data or --frames"),
        (("--data", ".", "--frames", "."), "give either --data or --frames"),
        (("--frames", ".", "--subset", "val"), "--subset"),
        (("--frames", ".", "--precision", "fp8"), "got 'fp8'"),
        (("--frames", ".", "--backend", "auto"), "--backend"),
        (("--frames", ".", "--backend", "cuda"), "got 'cuda'"),
        (("--frames", ".", "--limit", "0"), "--limit"),
        (("--frames", ".", "--seed", "-1"), "--seed"),
        (("--frames", ".", "--max-drop", "101"), "--max-drop"),
        (("--frames", "nowhere"), "nowhere"),
        (("--frames", ".", "--out", "nowhere/x.json"), "the folder of nowhere/x.json"),
        (("--frames", ".", "--out", "x", "--html", "x"), "x is that of --out as well"),
    ],
)
def test_a_bad_argument_is_exit_code_2(
    run: Run, arguments: tuple[str, ...], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    outcome = run("verify", *arguments)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert message in outcome.stderr and outcome.stderr.count("\n") == 1


def test_a_precision_that_the_bundle_has_not_is_exit_code_1(
    run: Run, wrong_bundle: Path, options: list[object]
) -> None:
    outcome = run("verify", "--bundle", wrong_bundle, *options, "--precision", "int8-cpu")
    assert outcome.exit_code == 1
    assert "is in fp32, fp16, int8, not in int8-cpu" in outcome.stderr


def test_verifying_does_without_torch(
    wrong_bundle: Path, options: list[object], tmp_path: Path
) -> None:
    arguments = ["verify", "--bundle", wrong_bundle, *options, "--html", tmp_path / "page.html"]
    program = (
        "import sys\n"
        "from samus_edge.cli.app import main\n"
        "assert main(sys.argv[1:] + ['--record']) == 1\n"
        "missing = {'torch', 'onnx', 'pywt', 'matplotlib', 'safetensors', 'yaml', 'scipy'}\n"
        "print('LOADED', sorted(missing & set(sys.modules)))\n"
    )
    command = [sys.executable, "-I", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
