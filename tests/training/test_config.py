"""The training configuration."""

import dataclasses
import importlib.resources
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.runtime.bundle.records import from_json
from samus_edge.training.config import (
    TrainConfig,
    config_document,
    read_config,
)
from samus_edge.training.losses import LossWeights
from samus_edge.training.prompt_schedule import PromptConfig

SHIPPED = sorted(Path(str(importlib.resources.files("samus_edge") / "configs")).glob("*.yaml"))


def write(path: Path, document: Any) -> Path:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def all_keys(document: dict[str, Any]) -> set[str]:
    """Dotted names of every setting."""
    keys: set[str] = set()
    for key, value in document.items():
        keys |= {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}
    return keys


def test_the_report_and_ours_are_shipped() -> None:
    assert {"tiny_busi.yaml", "samus_report.yaml"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_file_is_valid_and_begins_with_the_command_that_runs_it(path: Path) -> None:
    read_config(path)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# samus-edge (train|ablate|finetune) ", first)
    # finetune takes no other configuration than its own
    assert "finetune" in first or f"--config samus_edge/configs/{path.name} " in first


@pytest.mark.parametrize("name", ["tiny_busi.yaml", "samus_report.yaml"])
def test_a_whole_recipe_names_every_setting(name: str) -> None:
    text = next(path for path in SHIPPED if path.name == name).read_text(encoding="utf-8")
    assert all_keys(yaml.safe_load(text)) == all_keys(config_document(TrainConfig()))


def test_the_recipe_of_the_report() -> None:
    """Section 5 of the report: Adam 5e-4, batch 4, 400 epochs, Dice and MSE; SAMUS: one click."""
    config = read_config(next(path for path in SHIPPED if path.name == "samus_report.yaml"))
    assert (config.arch, config.optimizer, config.learning_rate) == ("vit_b", "adam", 5e-4)
    assert (config.batch_size, config.epochs, config.train_decoder) == (4, 400, False)
    assert (config.loss.dice, config.loss.mse, config.loss.bce, config.loss.iou) == (1, 1, 0, 0)
    assert config.prompts.box_probability == config.prompts.second_click_probability == 0
    assert config.prompts.click_probability == 1


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = TrainConfig(
        hf=False,
        epochs=3,
        learning_rate=0.1,
        precision="fp32",
        unfreeze=("neck", "vit"),
        augmentation=AugmentationConfig(rotation_deg=0, flip_probability=1.0),
    )
    assert read_config(write(tmp_path / "c.yaml", config_document(config))) == config


def test_keys_that_are_left_out_keep_their_default(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", {"epochs": 7, "augmentation": {"log_gain": 0.0}})
    expected = TrainConfig(epochs=7, augmentation=AugmentationConfig(log_gain=0.0))
    assert read_config(path) == expected
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    assert read_config(empty) == read_config(None) == TrainConfig()


def test_a_change_replaces_one_setting_and_nothing_else(tmp_path: Path) -> None:
    document = {"epochs": 7, "prompts": {"refine_iterations": 3}}
    path = write(tmp_path / "c.yaml", document)
    changes = ["prompts.refine_probability=0.5", "hf=false", "epochs=9", "unfreeze=[vit, neck]"]
    prompts = PromptConfig(refine_iterations=3, refine_probability=0.5)
    expected = TrainConfig(epochs=9, hf=False, unfreeze=("vit", "neck"), prompts=prompts)
    assert read_config(path, changes) == expected
    assert read_config(None, ["epochs=2", "epochs=3"]) == TrainConfig(epochs=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "--set: 'epochs' is not key=value"),
        ("=3", "'=3' is not key=value"),
        ("epochs=[", "the value of 'epochs=[' is not YAML"),
        ("epoch=3", "unknown key 'epoch'"),
        ("prompts.refine=1", "unknown key 'prompts.refine'"),
        ("prompts=3", "prompts must be a mapping, got 3"),
        ("epochs.more=3", "epochs must be an integer, got {'more': 3}"),
        ("prompts.refine_probability=2", "prompts.refine_probability must be in [0, 1], got 2"),
        ("learning_rate=3e-4", "got '3e-4' (for YAML, 3.0e-4 is a number"),
    ],
)
def test_a_bad_change_is_named(change: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_config(None, [change])
    assert message in str(caught.value)


def test_every_unknown_key_and_bad_value_is_named_in_one_error(tmp_path: Path) -> None:
    document = {
        "epochs": 0,
        "learning_rate": "3e-4",  # what YAML makes of 3e-4 without a point
        "hf": 1,
        "ema_decay": 1.0,
        "batch_sise": 4,
        "precision": "fp64",
        "augmentation": {"speckle": 0.1, "min_resolution": 0, "flip_probability": 1.5},
        "prompts": {"refine_iterations": 0},
        "loss": "dice",
    }
    path = write(tmp_path / "c.yaml", document)
    with pytest.raises(ValueError) as caught:
        read_config(path, ["seed=-1", "more=1"])
    message = str(caught.value)
    for part in (
        f"{path} with --set: ",
        "unknown key 'batch_sise'",
        "unknown key 'augmentation.speckle'",
        "unknown key 'more'",
        "epochs must be positive, got 0",
        "learning_rate must be a finite number, got '3e-4' (for YAML, 3.0e-4 is a number",
        "hf must be true or false, got 1",
        "ema_decay must be in [0, 1), got 1.0",
        "precision must be one of auto, fp32, bf16, got 'fp64'",
        "augmentation.min_resolution must be in (0, 1], got 0",
        "augmentation.flip_probability must be in [0, 1], got 1.5",
        "prompts.refine_iterations must be positive, got 0",
        "loss must be a mapping, got 'dice'",
        "seed must be at least 0, got -1",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", r"the document must be a mapping, got \[1, 2\]"),
        ("augmentation: strong\n", r"augmentation must be a mapping, got 'strong'"),
        ("epochs: [", r"c\.yaml is not a YAML file"),
        ("\xff\xfe", r"c\.yaml is not a YAML file"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_config(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", "vit_h"),
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", -1),
        ("accumulation_steps", 0),
        ("optimizer", "sgd"),
        ("schedule", "step"),
        ("device", "gpu"),
        ("learning_rate", float("nan")),
        ("gradient_clip", float("inf")),
        ("weight_decay", -0.1),
        ("warmup_steps", -1),
        ("num_workers", -1),
        ("checkpoint_interval_steps", -1),
        ("ema_decay", 1.0),
        ("normals", "yes"),
        ("train_decoder", 1),
        ("unfreeze", "neck"),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(TrainConfig(), **{name: value})
    assert str(caught.value).startswith(name)
    assert f"got {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            PromptConfig,
            {"refine_probability": 1.01},
            r"refine_probability must be .*1\.01",
        ),
        (PromptConfig, {"refine_iterations": 0}, r"refine_iterations must be positive"),
        (
            PromptConfig,
            {"box_probability": 0.5, "click_probability": 0.9},
            r"must be 1, so that every step has a prompt, got 0\.5 and 0\.9",
        ),
        (LossWeights, {"iou": -1.0}, r"iou must be at least 0, got -1\.0"),
        (LossWeights, {"dice": 0.0, "mse": 0.0}, r"one of dice, .* above 0"),
    ],
)
def test_a_bad_value_in_a_section_is_named(
    section: type[Any], changes: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        section(**changes)


def test_the_document_has_plain_values_and_builds_the_same_again() -> None:
    config = TrainConfig(unfreeze=("neck",), prompts=PromptConfig(refine_iterations=2))
    document = config_document(config)
    assert document["unfreeze"] == ["neck"]
    assert document["prompts"]["refine_iterations"] == 2
    assert from_json(TrainConfig, document) == config
