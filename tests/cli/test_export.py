"""The command `samus-edge export`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from samus_edge.modeling import SamusHF
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.weights.model_file import save_model
from tests.conftest import FRAMES_DIR, AssetFrame

Run = Callable[..., Any]


@pytest.fixture
def weights(random_model: SamusHF, tmp_path: Path) -> Path:
    """A weights file of `random_model`."""
    path = tmp_path / "model.safetensors"
    save_model(random_model, path, {"arch": "tiny", "hf": True, "gate": True})
    return path


@pytest.fixture
def frames(asset_frames: list[AssetFrame], tmp_path: Path) -> Path:
    """A folder with the two smallest frames."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for frame in asset_frames[-2:]:
        shutil.copy(FRAMES_DIR / frame.name, folder)
    return folder


@pytest.mark.usefixtures("spared_export")
def test_weights_become_a_checked_bundle(
    run: Run, weights: Path, frames: Path, random_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "bundle"
    arguments = ("--weights", weights, "--out", out, "--frames", frames, "--name", "my model")
    outcome = run("export", *arguments)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "my model" in outcome.stdout
    assert "parity with torch on 2 frames, 6 prompts" in outcome.stdout
    for name in ("image_encoder.onnx", "mask_decoder.onnx"):
        assert (out / name).read_bytes() == (random_bundle / name).read_bytes()
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["name"] == "my model"
    assert manifest["weights_sha256"] == sha256_of_file(weights)
    assert manifest["parity"]["max_abs_logit_error"] <= 1e-3

    again = run("export", *arguments)
    assert again.exit_code == 1
    assert again.stderr.count("\n") == 1
    assert "exists. Give another folder, or --overwrite to replace it." in again.stderr
    assert not any("Trained on" in credit for credit in manifest["credits"])
    credit = ("--credit", "Trained on twelve phantoms.")
    assert run("export", *arguments[:-2], *credit, "--overwrite").exit_code == 0
    unnamed = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert unnamed["name"] == "samus-hf-tiny"
    assert unnamed["credits"] == [credit[1], *manifest["credits"]]


def test_weights_of_another_kind_are_one_clear_line(run: Run, frames: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    outcome = run("export", "--weights", foreign, "--out", tmp_path / "bundle", "--frames", frames)
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith(f"error: {foreign} is not a samus-edge weights file")
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_a_folder_without_frames_is_a_bad_argument(run: Run, weights: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    outcome = run("export", "--weights", weights, "--out", tmp_path / "bundle", "--frames", empty)
    assert outcome.exit_code == 2
    assert "--frames" in outcome.stderr and f"{empty} holds no PNG file" in outcome.stderr


def test_an_old_operator_set_is_a_bad_argument(
    run: Run, weights: Path, frames: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    outcome = run(
        *("export", "--weights", weights, "--out", out, "--frames", frames, "--opset", "17")
    )
    assert outcome.exit_code == 2
    assert outcome.stderr == "error: opset must be 20 or newer, got 17.\n"
    assert not out.exists()


@pytest.mark.parametrize(("option", "value"), [("--weights", "nowhere"), ("--frames", "nowhere")])
def test_a_file_that_does_not_exist_is_named(
    run: Run, weights: Path, frames: Path, tmp_path: Path, option: str, value: str
) -> None:
    arguments = {"--weights": weights, "--frames": frames, "--out": tmp_path / "b", option: value}
    outcome = run("export", *(item for pair in arguments.items() for item in pair))
    assert outcome.exit_code == 2
    assert option in outcome.stderr and value in outcome.stderr


def test_importing_the_command_loads_nothing_heavy() -> None:
    program = (
        "import sys, samus_edge.cli.export\n"
        "heavy = {'torch', 'onnx', 'cv2', 'numpy', 'onnxruntime', 'rich.table'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
