"""From a configuration and subsets to a training, and what is written as it runs."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.dataset import Subsets
from samus_edge.errors import MissingExtraError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.batches import StageProgress, TrainingData
from samus_edge.training.config import TrainConfig, config_document, read_config
from samus_edge.training.objective import MaskObjective
from samus_edge.training.trainer import StepRecord, Trainer, run_training
from samus_edge.training.training_run import prepare_training, started_model
from samus_edge.weights.bundle_file import load_bundle_model
from samus_edge.weights.foreign_checkpoints import default_checkpoint
from samus_edge.weights.model_file import load_model, save_model
from tests.training.small_training import small_model


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    """LiteMedSAM's checkpoint; skips where its package is not installed."""
    try:
        return default_checkpoint()
    except MissingExtraError as err:
        pytest.skip(str(err))


def test_fresh_parts_depend_on_the_seed_alone(checkpoint: Path) -> None:
    torch.manual_seed(123)
    first, account = started_model(TrainConfig(seed=1), checkpoint)
    expected = torch.rand(3)
    torch.manual_seed(123)
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    again, _ = started_model(TrainConfig(seed=1), checkpoint)
    other, _ = started_model(TrainConfig(seed=2), checkpoint)
    states = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    changed = {
        name for name, tensor in states[0].items() if not torch.equal(tensor, states[2][name])
    }
    assert changed and changed <= set(account.new)


def test_the_switches_reach_the_model(checkpoint: Path) -> None:
    model, account = started_model(TrainConfig(hf=False, gate=False), checkpoint)
    assert model.state_dict()["image_encoder.cnn_branch.steps.0.conv.weight"].shape[1] == 1
    assert not any(".gate." in name for name in account.new)


def test_tiny_starts_from_lite_medsam_by_default(checkpoint: Path) -> None:
    model, account = started_model(TrainConfig(), None)
    given, _ = started_model(TrainConfig(), checkpoint)
    assert account.source == "LiteMedSAM's checkpoint (lite_medsam.pth)"
    state = given.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_vit_b_says_which_checkpoint_to_bring() -> None:
    with pytest.raises(ValueError, match=r"'vit_b' needs a checkpoint.*sam_vit_b_01ec64\.pth"):
        started_model(TrainConfig(arch="vit_b"))


def test_a_training_goes_on_from_our_own_weights(checkpoint: Path, tmp_path: Path) -> None:
    first, _ = started_model(TrainConfig(hf=False), checkpoint)
    path = tmp_path / "best.safetensors"
    save_model(first, path, {"arch": "tiny", "hf": False, "gate": True})
    model, account = started_model(TrainConfig(hf=False, seed=7), path)
    assert account.new == () and account.adapted == {}
    state = first.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_a_training_goes_on_from_a_bundle_and_from_what_came_of_it(tmp_path: Path) -> None:
    """The folded model is trained as it is; its weights file comes back as the same model."""
    expected = load_bundle_model()
    frames = torch.randint(0, 256, (1, 90, 120), dtype=torch.uint8)
    model, account = started_model(TrainConfig(start="default"))
    assert account.new == () and account.adapted == {}
    assert all(name.startswith("lesion_proposer.") for name in account.left_over)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    path = tmp_path / "best.safetensors"
    save_model(model, path, config_document(TrainConfig()))
    again, account = started_model(TrainConfig(), path)
    assert account.new == () and account.adapted == {}
    with torch.no_grad():
        embeddings = expected.encode_frames(frames)
        for each in (model.eval(), again.eval(), load_model(path)):
            assert torch.equal(each.encode_frames(frames), embeddings)


@pytest.fixture(scope="module")
def start(random_model: SamusHF, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the tiny architecture."""
    path: Path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_model(random_model, path, config_document(TrainConfig()))
    return path


@pytest.fixture
def subsets(bright_cases: list[UltrasoundCase], normal_cases: list[UltrasoundCase]) -> Subsets:
    """Three lesions and two normals to train on, a lesion and a normal to validate on."""
    train = [bright_cases[0], normal_cases[0], *bright_cases[1:3], normal_cases[1]]
    return Subsets(train=train, val=[bright_cases[3], normal_cases[0]])


def test_normals_are_trained_on_if_the_configuration_says_so(
    subsets: Subsets, start: Path, tmp_path: Path
) -> None:
    for changes, normals in (([], 0), (["normals=true"], 2)):
        config = read_config(None, ["batch_size=3", *changes])
        trainer, data, account = prepare_training(config, subsets, tmp_path, start=start)
        assert not account.new
        assert all(name.startswith("lesion_proposer.") for name in account.left_over)
        assert (len(data.train_cases), len(data.val_cases)) == (3, 1)
        assert len(data.normal_cases) == normals
        assert len(trainer.objective.samples) == 3 + normals
        assert all(parameter.requires_grad for parameter in trainer.learner.model.parameters())
    assert not any(tmp_path.iterdir())


def test_a_cache_is_filled_once_and_gives_the_same_samples(
    subsets: Subsets, start: Path, tmp_path: Path
) -> None:
    config = read_config(None, ["batch_size=3", "normals=true"])
    cache, out = tmp_path / "cache", tmp_path / "out"
    in_memory, *_ = prepare_training(config, subsets, out, start=start)
    seen: list[StageProgress] = []
    cached, *_ = prepare_training(
        config, subsets, out, start=start, cache=cache, progress=seen.append
    )
    assert [(stage.done, stage.total) for stage in seen] == [(done, 6) for done in range(1, 7)]
    written = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(written) == 6  # five to train on, one to validate on
    for index in range(5):
        one, other = in_memory.objective.samples[index], cached.objective.samples[index]
        assert torch.equal(one.image, other.image) and torch.equal(one.mask, other.mask)
    prepare_training(config, subsets, out, start=start, cache=cache)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == written


def test_curves_and_scalars_are_written_as_it_runs(
    bright_cases: list[UltrasoundCase],
    tensorboard_events: Callable[[Path], list[Any]],
    tmp_path: Path,
) -> None:
    settings = ["epochs=2", "batch_size=2", "precision=fp32", "prompts.box_probability=0"]
    data = TrainingData(bright_cases[:4], bright_cases[4:])
    objective = MaskObjective(small_model(), read_config(None, settings), data)
    trainer = Trainer(objective, tmp_path)
    steps: list[StepRecord] = []
    curves: list[bytes] = []

    best = run_training(
        trainer,
        lambda record: curves.append((tmp_path / "curves.png").read_bytes()),
        steps.append,
        tensorboard=True,
    )
    assert best == tmp_path / "best.safetensors" and best.exists()
    assert len(steps) == 4
    assert all(png.startswith(b"\x89PNG") for png in curves) and len(set(curves)) == 2
    per_step = [(tag, step) for step in range(1, 5) for tag in ("loss/step", "learning_rate")]
    per_epoch = [(tag, step) for step in (2, 4) for tag in ("loss/train", "loss/val", "dice/point")]
    logged = [
        (value.tag, event.step)
        for event in tensorboard_events(tmp_path / "tensorboard")
        for value in event.summary.value
    ]
    assert sorted(logged) == sorted(per_step + per_epoch)
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val_dice_box"] for row in rows] == ["", ""]  # boxes are not trained
    assert all(0 <= float(row["val_dice_point"]) <= 1 for row in rows)
