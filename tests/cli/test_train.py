"""The command `samus-edge train`."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from samus_edge.cli.train import TrainingDisplay
from samus_edge.errors import MissingExtraError
from samus_edge.training.checkpoint import load_state
from samus_edge.training.trainer import StepRecord
from samus_edge.weights.foreign_checkpoints import default_checkpoint
from samus_edge.weights.model_file import load_model

Run = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """One epoch of one step on two images, in float32."""
    path = tmp_path / "config.yaml"
    settings = {
        "epochs": 1,
        "batch_size": 2,
        "precision": "fp32",
        "prompts": {"refine_probability": 0.0, "several_clicks_probability": 0.0},
    }
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


@pytest.fixture
def lite_medsam() -> None:
    """Skips without the checkpoint that a training starts from."""
    try:
        default_checkpoint()
    except MissingExtraError as err:
        pytest.skip(str(err))


@pytest.mark.usefixtures("lite_medsam")
def test_a_training_runs_without_the_test_subset_and_is_not_repeated(
    run: Run, arguments: dict[str, Path], fake_busi: Path
) -> None:
    for stem in ("benign/benign (2)", "malignant/malignant (1)"):  # the test subset
        for path in fake_busi.glob(f"{stem.replace('(', '[(]')}*"):
            path.unlink()
    outcome = run("train", *flat(arguments), "--tensorboard")
    assert outcome.exit_code == 0, outcome.stderr
    assert "423 tensors taken, 12 adapted, 91 new, 0 left over" in outcome.stdout
    assert "train: 2 images with lesions, 0 without; val: 1\n" in outcome.stdout
    assert "1 epochs x 1 steps = 1 steps of 2 images, on 1 x cpu, fp32\n" in outcome.stdout
    assert "mask_decoder" in outcome.stdout and "resumed" not in outcome.stdout
    assert outcome.stderr.startswith("epoch 1: train loss ") and outcome.stderr.count("\n") == 1
    out = arguments["--out"]
    assert f"best weights: {out / 'best.safetensors'}\n" in outcome.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        *("best.safetensors", "config.json", "curves.png", "history.csv", "state.pt"),
        "tensorboard",
    ]
    with (out / "history.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["epoch"] == "1" and 0 <= float(row["val_dice_box"]) <= 1
    document = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert (document["epochs"], document["batch_size"]) == (1, 2)
    load_model(out / "best.safetensors")

    before = (out / "state.pt").read_bytes()
    again = run("train", *flat(arguments))
    assert again.exit_code == 0
    assert "resumed after step 1\n" in again.stdout
    assert (out / "state.pt").read_bytes() == before
    other = run(
        "train", *flat(arguments), "--epochs", "2", "--set", "loss.bce=1", "--unfreeze", "vit"
    )
    assert other.exit_code == 1
    assert "with another configuration, which differs in unfreeze, loss." in other.stderr
    assert other.stderr.count("\n") == 1


@pytest.mark.usefixtures("lite_medsam")
def test_minutes_batch_size_and_device_take_the_place_of_the_configurations(
    run: Run, arguments: dict[str, Path]
) -> None:
    options = ("--minutes", "0.001", "--batch-size", "1", "--device", "cpu")
    outcome = run("train", *flat(arguments), *options)
    assert outcome.exit_code == 0, outcome.stderr
    assert "0.001 minutes, epochs of 2 steps of 1 images, on 1 x cpu, fp32\n" in outcome.stdout
    both = run("train", *flat(arguments), *options, "--epochs", "2")
    assert both.exit_code == 2 and "--minutes" in both.stderr


@pytest.mark.usefixtures("lite_medsam")
def test_ctrl_c_saves_the_state_says_how_to_go_on_and_exits_130(
    run: Run, arguments: dict[str, Path]
) -> None:
    out = arguments["--out"]
    ended = threading.Event()

    def interrupt_when_a_state_is_there() -> None:
        while not ended.wait(0.02):
            if (out / "state.pt").exists():
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt_when_a_state_is_there)
    thread.start()
    outcome = run("train", *flat(arguments), "--epochs", "10000")
    ended.set()
    thread.join()
    assert outcome.exit_code == 130
    *epochs, last = outcome.stderr.splitlines()
    assert all(line.startswith("epoch ") for line in epochs)
    state = load_state(out / "state.pt")
    steps = state.learner["steps_done"]
    assert last == (
        f"error: training interrupted after step {steps} of 10000. {out} holds the state; run the "
        "same command again to go on."
    )
    load_model(out / "best.safetensors")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("lite_medsam")
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(
    run: Run, arguments: dict[str, Path]
) -> None:
    """The weights of 42 MB fit, the state of 168 MB does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000_000, hard))
    try:
        outcome = run("train", *flat(arguments))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out = arguments["--out"]
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith(
        f"error: {out / 'state.pt'} cannot be written (File too large)"
    )
    assert outcome.stderr.count("\n") == 1
    assert sorted(path.name for path in out.iterdir()) == ["best.safetensors", "config.json"]


@pytest.mark.slow
@pytest.mark.usefixtures("lite_medsam")
def test_torchrun_trains_on_two_processes(arguments: dict[str, Path]) -> None:
    """Each with one image, so one step of two; only the first one reports and writes."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command = ["-m", "samus_edge.cli.app", "train", *map(str, flat(arguments))]
    result = subprocess.run(
        [*launcher, *command, "--set", "batch_size=1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("1 steps of 2 images, on 2 x cpu") == 1
    assert result.stdout.count("best weights: ") == result.stderr.count("epoch 1: ") == 1
    assert load_state(arguments["--out"] / "state.pt").processes == 2


def test_a_vit_b_needs_a_checkpoint_and_says_which(run: Run, arguments: dict[str, Path]) -> None:
    outcome = run("train", *flat(arguments), "--set", "arch=vit_b")
    assert outcome.exit_code == 2
    assert "sam_vit_b_01ec64.pth" in outcome.stderr and "--start" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.usefixtures("lite_medsam")
def test_a_part_that_is_not_there_is_named_with_those_that_are(
    run: Run, arguments: dict[str, Path]
) -> None:
    outcome = run("train", *flat(arguments), "--unfreeze", "brain")
    assert outcome.exit_code == 2
    assert "'brain'" in outcome.stderr and "mask_decoder" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not arguments["--out"].exists()


def test_settings_that_are_wrong_are_all_named_in_one_line(
    run: Run, arguments: dict[str, Path]
) -> None:
    arguments["--config"].write_text("epochs: -1\nbatch_sise: 4\n", encoding="utf-8")
    outcome = run("train", *flat(arguments), "--set", "loss.dise=1", "--set", "seed")
    assert outcome.exit_code == 2
    assert outcome.stderr.count("\n") == 1
    assert "unknown key 'batch_sise'" in outcome.stderr
    assert "unknown key 'loss.dise'" in outcome.stderr
    assert "'seed' is not key=value" in outcome.stderr
    assert "epochs must be positive, got -1" in outcome.stderr
    assert not arguments["--out"].exists()


def test_a_start_that_is_no_checkpoint_is_one_clear_line(
    run: Run, arguments: dict[str, Path], tmp_path: Path
) -> None:
    start = tmp_path / "start.pth"
    for content, message in (
        (None, f"error: There is no checkpoint at {start}: "),
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
    [
        *(("--data", "nowhere"), ("--split", "nowhere"), ("--config", "nowhere")),
        *(("--epochs", "-3"), ("--device", "abacus")),
    ],
)
def test_a_bad_argument_is_named(
    run: Run, arguments: dict[str, Path], option: str, value: str
) -> None:
    outcome = run("train", *flat({**arguments, option: Path(value)}))
    assert outcome.exit_code == 2
    assert option.strip("-") in outcome.stderr and value in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_display_without_a_terminal_says_how_the_steps_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer = SimpleNamespace(
        total_steps=4, images_per_step=8, learner=SimpleNamespace(steps_done=1)
    )
    for interval, lines in ((0.0, 2), (1000.0, 0)):
        display = TrainingDisplay(line_interval_s=interval)
        display.start(trainer)  # type: ignore[arg-type]  # all of a trainer that it looks at
        for step, loss in ((2, 0.5), (3, 0.25)):
            display.step(StepRecord(step=step, loss=loss, learning_rate=1e-4))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == lines
    display = TrainingDisplay(line_interval_s=0.0)
    display.start(trainer)  # type: ignore[arg-type]  # as above
    display.step(StepRecord(step=2, loss=0.5, learning_rate=1e-4))
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"step 2 of 4: loss 0\.5000, rate 1\.00e-04, \d+\.\d images/s, 0 minutes left\n", line
    )


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


def test_several_datasets_are_trained_on_and_validated_one_by_one(
    run: Run, two_datasets: tuple[Path, Path], fake_split: Path, tmp_path: Path
) -> None:
    root, config = two_datasets
    out = tmp_path / "run"
    arguments = ("train", "--data", root, "--out", out, "--config", config)
    outcome = run(*arguments)
    assert outcome.exit_code == 0, outcome.stderr
    assert "busi: train 3, val 1, test 2\ndiscs: train 3, val 1, test 2\n" in outcome.stdout
    assert "train: 5 images with lesions, 0 without; val: 2\n" in outcome.stdout
    assert "1 epochs x 3 steps = 3 steps of 2 images" in outcome.stdout
    assert re.search(
        r"^  busi: val loss 0\.\d+, box 0\.\d+, point 0\.\d+$", outcome.stderr, re.MULTILINE
    )
    (row,) = csv.DictReader((out / "history.csv").read_text().splitlines())
    boxes = [float(row[f"{name}/box"]) for name in ("busi", "discs")]
    assert float(row["val_dice_box"]) == pytest.approx(sum(boxes) / 2, abs=1e-9)
    assert sorted(path.name for path in (out / "splits").iterdir()) == ["discs.json"]
    again = run(*arguments, "--epochs", "2")
    assert again.exit_code == 0 and "resumed after step 3" in again.stdout, again.stderr
    refused = run(*arguments, "--split", fake_split)
    assert refused.exit_code == 2 and "--split" in refused.stderr


def test_the_proposer_alone_is_trained_on_several_datasets(
    run: Run, two_datasets: tuple[Path, Path], tmp_path: Path
) -> None:
    root, config = two_datasets
    document = yaml.safe_load(config.read_text())
    document |= {"proposer_only": True, "loss": {"proposals": 1.0}}
    document["datasets"][0]["proposals"] = True
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(document))
    outcome = run("train", "--data", root, "--out", tmp_path / "run", "--config", own)
    assert outcome.exit_code == 0, outcome.stderr
    assert re.search(r"^epoch 1: train loss \d.\d+, val loss \d.\d+$", outcome.stderr, re.MULTILINE)
    assert re.search(r"^  busi: val proposals \d\.\d+$", outcome.stderr, re.MULTILINE)
