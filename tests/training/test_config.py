"""The training configuration."""

import dataclasses
from typing import Any

import pytest

from samus_edge.training.config import SECTIONS, TrainConfig, config_document
from samus_edge.training.losses import LossWeights
from samus_edge.training.prompt_schedule import PromptConfig


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
        ("unfreeze", [1]),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(TrainConfig(), **{name: value})
    assert str(caught.value).startswith(f"{name} must be ")
    assert f"got {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            PromptConfig,
            {"refine_probability": 1.01},
            r"prompts\.refine_probability must be .*1\.01",
        ),
        (PromptConfig, {"refine_iterations": 0}, r"prompts\.refine_iterations must be positive"),
        (
            PromptConfig,
            {"box_probability": 0.5, "click_probability": 0.9},
            r"must be 1, so that every step has a prompt, got 0\.5 and 0\.9",
        ),
        (LossWeights, {"iou": -1.0}, r"loss\.iou must be at least 0, got -1\.0"),
        (LossWeights, {"dice": 0.0, "mse": 0.0}, r"one of loss\.dice, .* above 0"),
    ],
)
def test_a_bad_value_in_a_section_is_named(
    section: type[Any], changes: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        section(**changes)


def test_every_section_is_a_field_of_its_own_type() -> None:
    config = TrainConfig()
    for name, section in SECTIONS.items():
        assert isinstance(getattr(config, name), section)


def test_the_document_has_plain_values_and_builds_the_same_again() -> None:
    config = TrainConfig(unfreeze=("neck",), prompts=PromptConfig(refine_iterations=2))
    document = config_document(config)
    assert document["unfreeze"] == ["neck"]
    assert document["prompts"]["refine_iterations"] == 2
    sections = {name: section(**document.pop(name)) for name, section in SECTIONS.items()}
    assert TrainConfig(**document, **sections) == config
