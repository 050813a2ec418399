"""Validation scores what the training uses, with numbers that can be worked out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.training_samples import LesionDataset
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.config import TrainConfig
from samus_edge.training.losses import LossWeights
from samus_edge.training.prompt_schedule import PromptConfig
from samus_edge.training.validation import validate

CPU = torch.device("cpu")


@pytest.fixture
def all_marked(
    make_small_model: Callable[..., SamusHF], monkeypatch: pytest.MonkeyPatch
) -> SamusHF:
    """A model that marks everything for a box, and nothing for a click."""
    model = make_small_model()

    def decode(embeddings: Tensor, coords: Tensor, labels: Tensor, *rest: Any) -> Any:
        sign = torch.where((labels == 2).any(dim=1), 40.0, -40.0)
        logits = sign[:, None, None, None] * torch.ones(len(labels), 4, 128, 128)
        return logits, torch.zeros(len(labels), 4)

    monkeypatch.setattr(model, "decode", decode)
    return model


def test_scores_of_a_model_that_marks_everything_for_a_box(
    all_marked: SamusHF, bright_cases: list[UltrasoundCase]
) -> None:
    """Dice of everything with an area fraction a is 2a / (1 + a); MSE 1 - a; of nothing 0 and a."""
    data = LesionDataset(bright_cases, image_size=256, augmentation=None, seed=0)
    areas = [float(data[index].mask.mean()) for index in range(5)]
    config = TrainConfig(batch_size=2, loss=LossWeights(dice=0, mse=1, multimask=0, iou=0))
    scores = validate(all_marked, data, config, CPU)
    assert scores.dice_box == pytest.approx(sum(2 * a / (1 + a) for a in areas) / 5, abs=1e-6)
    assert scores.dice_point == 0.0
    assert scores.loss == pytest.approx(0.5, abs=1e-6)
    assert not all_marked.training


@pytest.mark.parametrize("kind", ["box", "click"])
def test_prompts_that_are_not_trained_are_not_scored(
    all_marked: SamusHF, bright_cases: list[UltrasoundCase], kind: str
) -> None:
    data = LesionDataset(bright_cases[:2], image_size=256, augmentation=None, seed=0)
    areas = [float(data[index].mask.mean()) for index in range(2)]
    off: Any = {"box": "click_probability", "click": "box_probability"}[kind]
    prompts = dataclasses.replace(PromptConfig(), **{off: 0})
    loss = LossWeights(dice=0, mse=1, multimask=0, iou=0)
    config = TrainConfig(batch_size=2, prompts=prompts, loss=loss)
    scores = validate(all_marked, data, config, CPU)
    assert (scores.dice_box is None) == (kind == "click")
    assert (scores.dice_point is None) == (kind == "box")
    expected = sum(areas) / 2 if kind == "click" else 1 - sum(areas) / 2
    assert scores.loss == pytest.approx(expected, abs=1e-6)
