"""Kinds of prompts come as often as configured."""

from collections import Counter

import numpy as np
import pytest
import torch

from samus_edge.data.training_samples import TrainingSample
from samus_edge.training.prompt_schedule import PromptConfig, scheduled_prompts

DRAWS = 600
DEVIATION = 0.075
"""Nearly four standard deviations of a share of 0.5 of so many draws, 0.5 / sqrt(600) each."""


@pytest.fixture
def batch() -> TrainingSample:
    """One sample whose coordinates tell its parts apart."""
    image = torch.zeros(1, 1, 8, 8)
    return TrainingSample(
        image=image,
        high_frequency=image,
        mask=image,
        teacher_mask=image,
        box=torch.tensor([[[1.0, 1.0], [2.0, 2.0]]]),
        clicks=torch.tensor([[[3.0, 3.0], [4.0, 4.0], [5.0, 5.0]]]),
        background_click=torch.tensor([[[6.0, 6.0]]]),
        background_label=torch.tensor([[0.0]]),
    )


def kinds(batch: TrainingSample, config: PromptConfig, rng: np.random.Generator) -> list[str]:
    """Prompts by their x coordinates and labels."""
    return [
        " ".join(
            f"{x:.0f}:{label:.0f}"
            for x, label in zip(prompt.point_coords[0, :, 0], prompt.point_labels[0], strict=True)
        )
        for prompt in scheduled_prompts(batch, config, rng)
    ]


def test_every_kind_has_its_chance(batch: TrainingSample) -> None:
    config = PromptConfig(box_probability=0.6)
    rng = np.random.default_rng(0)
    counts = Counter(kind for _ in range(DRAWS) for kind in kinds(batch, config, rng))
    expected = {
        "1:2 2:3": 0.6 * 0.85,
        "1:2 2:3 3:1": 0.6 * 0.15,
        "3:1 0:-1": 1.0,
        "4:1 0:-1": 0.5,
        "3:1 4:1 6:0 0:-1": 0.25 / 2,
        "3:1 4:1 5:1 6:0 0:-1": 0.25 / 2,
    }
    assert counts.keys() == expected.keys()
    for kind, share in expected.items():
        assert counts[kind] / DRAWS == pytest.approx(share, abs=DEVIATION), kind


def test_equally_many_numbers_are_drawn_whatever_comes_out(batch: TrainingSample) -> None:
    """So that a change of one chance leaves the later draws of a step as they were."""
    after = []
    for config in (PromptConfig(), PromptConfig(0.0, 0.0, 1.0, 0.0, 0.0)):
        rng = np.random.default_rng(3)
        kinds(batch, config, rng)
        after.append(rng.random())
    assert after[0] == after[1]


def test_the_reports_recipe_is_one_click(batch: TrainingSample) -> None:
    config = PromptConfig(0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    rng = np.random.default_rng(0)
    assert {tuple(kinds(batch, config, rng)) for _ in range(50)} == {("3:1 0:-1",)}
