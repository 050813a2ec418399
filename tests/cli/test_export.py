"""The command `samus-edge export`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from samus_edge.modeling import SamusHF
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle, available_precisions
from samus_edge.runtime.images.output_files import sha256_of_file
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
    next(frames.iterdir()).unlink()  # one is quicker
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


@pytest.mark.parametrize("opset", ["16", "24"])
def test_an_operator_set_out_of_range_is_a_bad_argument(
    run: Run, weights: Path, frames: Path, tmp_path: Path, opset: str
) -> None:
    out = tmp_path / "bundle"
    outcome = run(
        *("export", "--weights", weights, "--out", out, "--frames", frames, "--opset", opset)
    )
    assert outcome.exit_code == 2
    assert outcome.stderr == f"error: opset must be from 17 to 23, got {opset}.\n"
    assert not out.exists()


@pytest.mark.usefixtures("spared_export")
def test_half_precision_a_frozen_frame_and_an_old_operator_set(
    run: Run, weights: Path, frames: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    next(frames.iterdir()).unlink()  # one is quicker
    outcome = run(
        *("export", "--weights", weights, "--out", out, "--frames", frames, "--opset", "17"),
        *("--precision", "fp32", "--precision", "fp16", "--frame-size", "48x64"),
    )
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "image uint8 (1, 48, 64)" in outcome.stdout
    assert "6.6" in outcome.stdout  # GFLOP
    bundle = Bundle.open(out)
    assert list(available_precisions(bundle)) == ["fp32", "fp16"]
    assert {record.opset for record in bundle.manifest.graphs.values()} == {17}
    frame = np.full((48, 64), 90, np.uint8)
    masks = []
    for precision in ("fp32", "fp16"):
        with Segmenter.load(out, precision=precision, threads=1) as segmenter:
            masks.append(segmenter.segment(frame, boxes=[[10, 10, 40, 40]]).low_res_logits)
            with pytest.raises(ValueError, match="expected image uint8 \\(1, 48, 64\\)"):
                segmenter.encode(frame[:-1])
    np.testing.assert_allclose(masks[0], masks[1], atol=0.5)


def test_a_bundle_becomes_a_triton_repository(run: Run, tmp_path: Path) -> None:
    outcome = run("export", "--triton", tmp_path / "models")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "image_encoder_onnx" in outcome.stdout
    assert (tmp_path / "models" / "mask_decoder_tensorrt" / "config.pbtxt").is_file()
    again = run("export", "--triton", tmp_path / "models")
    assert again.exit_code == 1 and "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --out or --triton"),
        (["--out", "b", "--weights", "W", "--bundle", "B"], "give --weights or --bundle"),
        (["--out", "b", "--precision", "int8"], "samus-edge calibrate"),
        (["--out", "b", "--frame-size", "480"], "is not HxW"),
        (["--out", "b", "--triton", "t", "--frame-size", "48x64"], "goes without --frame-size"),
        (["--triton", "t", "--name", "n"], "is needed for these options"),
        (["--profile", "sam", "--triton", "t"], "goes with --out"),
    ],
)
def test_options_that_do_not_go_together_are_one_clear_line(
    run: Run, weights: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    places = {"b": tmp_path / "b", "t": tmp_path / "t", "W": weights, "B": tmp_path}
    outcome = run("export", *(places.get(option, option) for option in options))
    assert outcome.exit_code == 2
    assert outcome.stderr.count("\n") == 1 and message in outcome.stderr
    assert not (tmp_path / "b").exists() and not (tmp_path / "t").exists()


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
        "heavy = {'torch', 'onnx', 'cv2', 'numpy', 'onnxruntime', 'rich.table'} & "
        "set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
