"""The training configuration and its YAML file."""

import dataclasses
import importlib.resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.training.config import TrainConfig, config_document, read_config


@pytest.fixture
def shipped() -> Path:
    """The configuration file of the default bundle's training."""
    return Path(str(importlib.resources.files("samus_edge") / "configs" / "tiny_busi.yaml"))


def write(path: Path, document: Any) -> Path:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_the_shipped_file_is_the_default_and_names_every_setting(shipped: Path) -> None:
    assert read_config(shipped) == TrainConfig()
    document = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    assert document == config_document(TrainConfig())


def test_the_shipped_file_begins_with_the_command_that_runs_it(shipped: Path) -> None:
    first = shipped.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# samus-edge train --config samus_edge/configs/tiny_busi.yaml")


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = TrainConfig(
        hf=False,
        epochs=3,
        learning_rate=0.1,
        precision="fp32",
        augmentation=AugmentationConfig(rotation_deg=0, flip_probability=1.0),
    )
    assert read_config(write(tmp_path / "c.yaml", config_document(config))) == config


def test_keys_that_are_left_out_keep_their_default(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", {"epochs": 7, "augmentation": {"log_gain": 0.0}})
    expected = TrainConfig(epochs=7, augmentation=AugmentationConfig(log_gain=0.0))
    assert read_config(path) == expected
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    assert read_config(empty) == TrainConfig()


def test_every_unknown_key_and_bad_value_is_named_in_one_error(tmp_path: Path) -> None:
    document = {
        "epochs": 0,
        "learning_rate": "3e-4",  # what YAML makes of 3e-4 without a point
        "hf": 1,
        "ema_decay": 1.0,
        "batch_sise": 4,
        "precision": "fp64",
        "augmentation": {"speckle": 0.1, "min_resolution": 0, "flip_probability": 1.5},
    }
    path = write(tmp_path / "c.yaml", document)
    with pytest.raises(ValueError) as caught:
        read_config(path)
    message = str(caught.value)
    for part in (
        str(path),
        "unknown setting 'batch_sise'",
        "unknown setting 'augmentation.speckle'",
        "epochs must be positive, got 0",
        "learning_rate must be a finite number, got '3e-4' (for YAML, 3.0e-4 is a number",
        "hf must be true or false, got 1",
        "ema_decay must be in [0, 1), got 1.0",
        "precision must be one of fp32, bf16, got 'fp64'",
        "augmentation.min_resolution must be in (0, 1], got 0",
        "augmentation.flip_probability must be in [0, 1], got 1.5",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", "vit_b"),
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", -1),
        ("learning_rate", float("nan")),
        ("gradient_clip", float("inf")),
        ("weight_decay", -0.1),
        ("warmup_steps", -1),
        ("refine_probability", 1.01),
        ("box_and_click_probability", -0.01),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        dataclasses.replace(TrainConfig(), **{name: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", r"the file must be a mapping of settings, got \[1, 2\]"),
        ("augmentation: strong\n", r"augmentation must be a mapping of settings, got 'strong'"),
        ("epochs: [", r"c\.yaml is not a YAML file"),
        ("\xff\xfe", r"c\.yaml is not a YAML file"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_config(path)
