"""The command `samus-edge convert`."""

import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.runtime.bundle.bundle import Bundle, default_bundle_path
from samus_edge.weights.bundle_file import load_bundle_model
from samus_edge.weights.model_file import load_model, save_model

Run = Callable[..., Any]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the weights go: a folder of its own."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.safetensors"


@pytest.fixture
def own_weights(tmp_path: Path) -> Path:
    """Weights of a tiny model with both switches off."""
    path = tmp_path / "plain.safetensors"
    save_model(
        samus_hf_tiny(hf=False, gate=False), path, {"arch": "tiny", "hf": False, "gate": False}
    )
    return path


def expect_failure(outcome: Any, exit_code: int, message: str, out: Path) -> None:
    """One line, nothing on stdout, nothing written."""
    assert (outcome.exit_code, outcome.stdout) == (exit_code, ""), outcome
    assert outcome.stderr.startswith("error: ") and outcome.stderr.count("\n") == 1
    assert message in outcome.stderr
    assert not out.parent.is_dir() or list(out.parent.iterdir()) == []


def test_lite_medsam_becomes_weights_of_our_own(
    run: Run, out: Path, lite_medsam_checkpoint: Path
) -> None:
    arguments = (
        "--checkpoint",
        lite_medsam_checkpoint,
        "--arch",
        "tiny",
        "--no-gate",
        "--out",
        out,
    )
    outcome = run("convert", *arguments)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith(
        "weights from LiteMedSAM's checkpoint (lite_medsam.pth): 423 tensors taken, 12 "
    )
    assert any("inflated to a binomial 3x3" in line for line in lines)
    assert lines[-1] == f"weights: {out}"
    with safe_open(str(out), framework="pt") as file:
        settings = json.loads(file.metadata()["settings"])
    assert settings == {
        "arch": "tiny",
        "hf": True,
        "gate": False,
        "proposer": False,
        "converted_from": "lite_medsam.pth",
        "converted_from_sha256": hashlib.sha256(lite_medsam_checkpoint.read_bytes()).hexdigest(),
    }
    state = load_model(out).state_dict()
    theirs = torch.load(lite_medsam_checkpoint, weights_only=True)
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(state[name], theirs[name])
    assert run("convert", *arguments).exit_code == 0
    again = load_model(out).state_dict()  # what is new does not depend on the run
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())


def test_switches_are_added_to_our_own_weights(run: Run, out: Path, own_weights: Path) -> None:
    outcome = run("convert", "--checkpoint", own_weights, "--arch", "tiny", "--out", out)
    assert outcome.exit_code == 0, outcome.stderr
    assert "a zero kernel added for the high-frequency image" in outcome.stdout
    assert "new      image_encoder.cnn_branch: " in outcome.stdout
    load_model(out)


@pytest.mark.parametrize("name", ["notes.pth", "bomb.pth", "resnet.pth", "nowhere.pth"])
def test_a_wrong_file_is_one_line(run: Run, out: Path, tmp_path: Path, name: str) -> None:
    path, trace = tmp_path / name, tmp_path / "trace"
    if name == "notes.pth":
        path.write_bytes(b"text")
    elif name == "bomb.pth":
        torch.save({"image_encoder.pos_embed": Bomb(trace)}, path)
    elif name == "resnet.pth":
        torch.save({"conv1.weight": torch.zeros(1)}, path)
    outcome = run("convert", "--checkpoint", path, "--arch", "tiny", "--out", out)
    expect_failure(outcome, 1, str(path), out)
    assert not trace.exists()


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_a_wrong_architecture_is_one_line(run: Run, out: Path, own_weights: Path) -> None:
    outcome = run("convert", "--checkpoint", own_weights, "--arch", "vit_b", "--out", out)
    expect_failure(outcome, 1, "'tiny', not 'vit_b'", out)
    outcome = run("convert", "--checkpoint", own_weights, "--arch", "huge", "--out", out)
    expect_failure(outcome, 2, "one of tiny, vit_b, got 'huge'", out)


def test_a_trained_switch_is_not_dropped(
    run: Run, out: Path, random_model: SamusHF, tmp_path: Path
) -> None:
    path = tmp_path / "trained.safetensors"
    save_model(random_model, path, {"arch": "tiny", "hf": True, "gate": True})
    outcome = run("convert", "--checkpoint", path, "--arch", "tiny", "--no-hf", "--out", out)
    expect_failure(outcome, 1, "was trained with hf, which", out)


def test_places_that_cannot_be_written_are_one_line(run: Run, out: Path, own_weights: Path) -> None:
    arguments = ("convert", "--checkpoint", own_weights, "--arch", "tiny", "--out")
    before = own_weights.read_bytes()
    nowhere = out.parent / "nowhere" / "model.safetensors"
    expect_failure(
        run(*arguments, nowhere), 1, f"{nowhere} is in a folder that does not exist", out
    )
    pth = out.with_suffix(".pth")
    expect_failure(run(*arguments, pth), 2, f"ending in .safetensors, got {pth}", out)
    expect_failure(run(*arguments, own_weights), 2, "would overwrite the checkpoint", out)
    assert own_weights.read_bytes() == before
    folder = out.parent.with_suffix(".safetensors")
    folder.mkdir()
    expect_failure(run(*arguments, folder), 1, f"{folder} is a folder", out)


def test_importing_the_command_loads_nothing_heavy() -> None:
    program = (
        "import sys, samus_edge.cli.convert, samus_edge.cli.info\n"
        "heavy = {'torch', 'rich', 'cv2', 'numpy', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_weights_are_averaged_with_a_bundles(run: Run, out: Path, tmp_path: Path) -> None:
    start, proposer = load_bundle_model(), "lesion_proposer."
    trained = copy.deepcopy(start)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter))
    path = tmp_path / "trained.safetensors"
    save_model(trained, path, {"arch": "tiny", "hf": True, "gate": True})
    arguments = ("--checkpoint", path, "--arch", "tiny", "--out", out)
    outcome = run("convert", *arguments, "--average", default_bundle_path(), "--share", 0.25)
    assert outcome.exit_code == 0, outcome
    found, before, after = (m.state_dict() for m in (load_model(out), start, trained))
    for name, tensor in found.items():
        expected = after[name]
        if tensor.is_floating_point() and not name.startswith(proposer):
            expected = 0.25 * before[name] + 0.75 * after[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)
    with safe_open(out, "pt") as file:
        settings = json.loads(file.metadata()["settings"])
    bundle = Bundle.open(default_bundle_path())
    assert settings["averaged_with_sha256"] == bundle.manifest.weights_sha256
    assert settings["averaged_share"] == 0.25


def test_weights_of_other_shapes_are_not_averaged(
    run: Run, out: Path, lite_medsam_checkpoint: Path
) -> None:
    arguments = ("--checkpoint", default_bundle_path(), "--arch", "tiny", "--out", out)
    outcome = run("convert", *arguments, "--average", lite_medsam_checkpoint)
    expect_failure(outcome, 1, "cannot be averaged: they differ in ", out)


def test_a_share_goes_with_an_average(run: Run, out: Path, own_weights: Path) -> None:
    arguments = ("--checkpoint", own_weights, "--arch", "tiny", "--out", out)
    outcome = run("convert", *arguments, "--share", 0.3)
    assert outcome.exit_code == 2 and "--share" in outcome.stderr
    assert not out.exists()
