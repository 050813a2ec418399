"""The commands `samus-edge data check`, `split` and `augmentations`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from samus_edge.data.dataset import load_subsets

Run = Callable[..., Any]


def test_a_sound_dataset_is_counted(run: Run, fake_busi: Path, fake_split: Path) -> None:
    outcome = run("data", "check", "--data", fake_busi, "--split", fake_split)
    assert outcome.exit_code == 0, outcome.stderr
    rows = [line.split() for line in outcome.stdout.splitlines()]
    assert ["test", "benign", "1", "2"] in rows
    assert f"Nothing is wrong with {fake_busi} (layout: busi)." in outcome.stdout
    assert outcome.stderr == ""


def test_everything_broken_is_listed_and_fails(run: Run, fake_busi: Path) -> None:
    (fake_busi / "benign" / "benign (1)_mask.png").unlink()
    (fake_busi / "malignant" / "malignant (1).png").write_bytes(b"no image")
    outcome = run("data", "check", "--data", fake_busi)
    assert outcome.exit_code == 1
    broken = [line for line in outcome.stdout.splitlines() if line.startswith("broken: ")]
    assert len(broken) == 2 and "benign (1)_mask.png" in broken[0]
    assert "malignant (1).png is not a PNG, JPEG, BMP, TIFF or WebP file" in broken[1]
    assert outcome.stderr == f"error: 2 problem(s) in {fake_busi}, listed above.\n"


def test_a_split_is_written_read_and_not_overwritten(
    run: Run, fake_us30k: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "split.json", tmp_path / "groups.jpg"
    arguments = ("--data", fake_us30k, "--out", out, "--fractions", "0.5,0.2,0.3")
    outcome = run("data", "split", *arguments, "--show", picture)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.startswith("7 cases in 6 groups, 0 pairs of near-duplicates\n")
    subsets = load_subsets(fake_us30k, out)
    assert len([*subsets.train, *subsets.val, *subsets.test]) == 7
    assert cv2.imread(str(picture)) is not None
    written = out.read_bytes()
    again = run("data", "split", *arguments)
    assert again.exit_code == 2 and "exists already" in again.stderr
    assert run("data", "split", *arguments, "--overwrite").exit_code == 0
    assert out.read_bytes() == written


def test_a_split_follows_what_the_names_of_the_cases_say(
    run: Run, fake_folders: Path, tmp_path: Path
) -> None:
    out = tmp_path / "split.json"
    rules = ("--test", "^scan", "--val", "^cyst", "--skip", "^normal", "--fractions", "1,0,0")
    outcome = run("data", "split", "--data", fake_folders, "--out", out, *rules)
    assert outcome.exit_code == 0, outcome.stderr
    subsets = load_subsets(fake_folders, out)
    found = [[case.key for case in subsets.get(name)] for name in ("train", "val", "test")]
    assert found == [["case_2", "case_10"], ["cyst/c1"], ["scan_1"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fractions", "0.7,0.3"), "--fractions '0.7,0.3' has 2 numbers"),
        (("--fractions", "a,b,c"), "--fractions 'a,b,c' is not numbers"),
        (("--fractions", "0.7,0.2,0.2"), "add up to 1, got 0.7,0.2,0.2"),
        (("--threshold", "1.5"), "threshold must be in (0, 1], got 1.5"),
        (("--patient", "["), "'[' is no regular expression"),
        (("--show", "groups.gif"), "must end in .png or .jpg or .jpeg, got groups.gif"),
        (("--out", "missing/split.json"), "the folder of missing/split.json does not exist"),
        (("--out", "split.txt"), "must end in .json, got split.txt"),
        (("--seed", "-1"), "--seed: must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_one_line(
    run: Run, fake_busi: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    out = () if "--out" in arguments else ("--out", tmp_path / "split.json")
    outcome = run("data", "split", "--data", fake_busi, *out, *arguments)
    assert outcome.exit_code == 2
    assert message in outcome.stderr and outcome.stderr.count("\n") == 1
    assert not (tmp_path / "split.json").exists()


def test_a_folder_of_no_layout_fails_with_the_three_layouts(run: Run, tmp_path: Path) -> None:
    outcome = run("data", "check", "--data", tmp_path)
    assert outcome.exit_code == 1 and outcome.stderr.count("\n") == 1
    assert "us30k: " in outcome.stderr and "folders: " in outcome.stderr


def test_the_augmentations_are_drawn(run: Run, fake_busi: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    config = tmp_path / "config.yaml"
    config.write_text("augmentation:\n  rotation_deg: 5.0\n", encoding="utf-8")
    arguments = ("--data", fake_busi, "--out", out, "--frames", "1")
    assert run("data", "augmentations", *arguments, "--seed", "1").exit_code == 0
    sheet = cv2.imread(str(out))
    assert sheet is not None
    outcome = run("data", "augmentations", *arguments, "--seed", "1", "--config", config)
    assert outcome.exit_code == 0, outcome.stderr
    assert "normal" not in outcome.stdout and str(out) in outcome.stdout
    other = cv2.imread(str(out))
    assert other is not None and other.shape == sheet.shape
    assert (other != sheet).any()


def test_importing_the_command_loads_neither_torch_nor_opencv() -> None:
    code = "import sys, samus_edge.cli.data; print(*sys.modules)"
    command = [sys.executable, "-I", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "samus_edge.cli.data" in loaded
    assert not {"torch", "cv2", "numpy", "yaml"} & loaded
