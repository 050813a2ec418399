"""The command `samus-edge train`."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from samus_edge.errors import MissingExtraError
from samus_edge.weights.lite_medsam import default_checkpoint
from samus_edge.weights.model_file import load_model

Run = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """One epoch of one step on two images, in float32."""
    path = tmp_path / "config.yaml"
    settings = {"epochs": 1, "batch_size": 2, "precision": "fp32", "refine_probability": 0.0}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.fixture
def arguments(fake_busi: Path, fake_split: Path, config: Path, tmp_path: Path) -> dict[str, Path]:
    """Options of a training on `fake_busi`."""
    out = tmp_path / "run"
    return {"--data": fake_busi, "--split": fake_split, "--out": out, "--config": config}


def flat(arguments: dict[str, Path]) -> list[Path | str]:
    """As a command line."""
    return [item for pair in arguments.items() for item in pair]


def test_a_training_runs_without_the_test_subset_and_is_not_repeated(
    run: Run, arguments: dict[str, Path], fake_busi: Path
) -> None:
    try:
        default_checkpoint()
    except MissingExtraError as err:
        pytest.skip(str(err))
    for stem in ("benign/benign (2)", "malignant/malignant (1)"):  # the test subset
        for path in fake_busi.glob(f"{stem.replace('(', '[(]')}*"):
            path.unlink()
    outcome = run("train", *flat(arguments))
    assert outcome.exit_code == 0, outcome.stderr
    assert "423 tensors taken, 12 adapted, 91 new, 0 left over" in outcome.stdout
    assert outcome.stderr.startswith("epoch 1: train loss ") and outcome.stderr.count("\n") == 1
    out = arguments["--out"]
    assert f"best weights: {out / 'best.safetensors'}\n" in outcome.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        *("best.safetensors", "config.json", "history.csv", "state.pt")
    ]
    with (out / "history.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["epoch"] == "1" and 0 <= float(row["val_dice_box"]) <= 1
    document = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert (document["epochs"], document["batch_size"]) == (1, 2)
    load_model(out / "best.safetensors")

    before = (out / "state.pt").read_bytes()
    assert run("train", *flat(arguments)).exit_code == 0
    assert (out / "state.pt").read_bytes() == before
    other = run("train", *flat(arguments), "--epochs", "2")
    assert other.exit_code == 1
    assert "state.pt was made with another configuration, which differs in epochs" in other.stderr
    assert other.stderr.count("\n") == 1


def test_settings_that_are_wrong_are_all_named_in_one_line(
    run: Run, arguments: dict[str, Path]
) -> None:
    arguments["--config"].write_text("epochs: -1\nbatch_sise: 4\n", encoding="utf-8")
    outcome = run("train", *flat(arguments))
    assert outcome.exit_code == 2
    assert outcome.stderr.count("\n") == 1
    assert "unknown setting 'batch_sise'" in outcome.stderr
    assert "epochs must be positive, got -1" in outcome.stderr
    assert not arguments["--out"].exists()


def test_a_start_that_is_no_checkpoint_is_one_clear_line(
    run: Run, arguments: dict[str, Path], tmp_path: Path
) -> None:
    start = tmp_path / "start.pth"
    for content, message in (
        (None, f"error: There is no checkpoint at {start}."),
        (b"text", f"error: {start} is not a PyTorch checkpoint"),
    ):
        if content is not None:
            start.write_bytes(content)
        outcome = run("train", *flat(arguments), "--start", start)
        assert outcome.exit_code == 1
        assert outcome.stderr.startswith(message)
        assert outcome.stderr.count("\n") == 1
    assert not arguments["--out"].exists()


def test_a_broken_dataset_is_one_clear_line(
    run: Run, arguments: dict[str, Path], fake_busi: Path
) -> None:
    (fake_busi / "benign" / "benign (1)_mask.png").unlink()
    outcome = run("train", *flat(arguments))
    assert outcome.exit_code == 1
    assert "no mask for 'benign/benign (1)'" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("--data", "nowhere"), ("--split", "nowhere"), ("--config", "nowhere"), ("--epochs", "-3")],
)
def test_a_bad_argument_is_named(
    run: Run, arguments: dict[str, Path], option: str, value: str
) -> None:
    outcome = run("train", *flat({**arguments, option: Path(value)}))
    assert outcome.exit_code == 2
    assert option.strip("-") in outcome.stderr and value in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_importing_the_command_loads_nothing_heavy() -> None:
    program = (
        "import sys, samus_edge.cli.train\n"
        "heavy = {'torch', 'yaml', 'cv2', 'numpy', 'onnxruntime', 'pywt'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
