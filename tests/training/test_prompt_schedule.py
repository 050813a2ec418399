"""Kinds of prompts come as often as configured."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from samus_edge.runtime.prompts import check_prompts, decoder_prompts
from samus_edge.training.prompt_schedule import (
    PromptConfig,
    box_prompts,
    click_prompts,
    corrected_prompts,
    scheduled_prompts,
    several_click_prompts,
)
from samus_edge.training.training_samples import TrainingSample

BOXES = [[[10.0, 20.0], [100.0, 90.0]], [[30.0, 40.0], [50.0, 200.0]]]
CLICKS = [
    [[60.0, 50.0], [20.0, 30.0], [90.0, 80.0]],
    [[40.0, 120.0], [35.0, 60.0], [45.0, 190.0]],
]
OFF_THE_LESION = [[[5.0, 5.0]], [[200.0, 100.0]]]


@pytest.fixture
def prompt_batch_batch() -> TrainingSample:
    """Two lesions, which fill their boxes."""
    mask = torch.zeros(2, 1, 256, 256)
    mask[0, 0, 20:91, 10:101] = 1
    mask[1, 0, 40:201, 30:51] = 1
    image = torch.zeros(2, 1, 256, 256)
    return TrainingSample(
        image=image,
        high_frequency=image,
        mask=mask,
        box=torch.tensor(BOXES),
        clicks=torch.tensor(CLICKS),
        background_click=torch.tensor(OFF_THE_LESION),
        background_label=torch.tensor([[0.0], [0.0]]),
        mask_weight=torch.ones(2, 1),
        proposals=torch.zeros(2, 6, 32, 32),
        proposal_weights=torch.zeros(2, 2),
    )


def test_prompts_are_those_that_the_runtime_packs(prompt_batch_batch: TrainingSample) -> None:
    boxes, clicks = np.array(BOXES, np.float32), np.array(CLICKS, np.float32)
    several = np.concatenate((clicks[:, :2], np.array(OFF_THE_LESION, np.float32)), axis=1)
    size = (256, 256)  # where the original frame is the model frame
    asked = {
        "box": check_prompts(size, boxes=boxes.reshape(2, 4)),
        "click": check_prompts(size, point_coords=clicks[:, :1]),
        "other click": check_prompts(size, point_coords=clicks[:, 2:]),
        "both": check_prompts(size, boxes=boxes.reshape(2, 4), point_coords=clicks[:, :1]),
        "several": check_prompts(
            size, point_coords=several, point_labels=np.array([[1, 1, 0]] * 2, np.int32)
        ),
    }
    made = {
        "box": box_prompts(prompt_batch_batch, with_click=False),
        "click": click_prompts(prompt_batch_batch),
        "other click": click_prompts(prompt_batch_batch, which=2),
        "both": box_prompts(prompt_batch_batch, with_click=True),
        "several": several_click_prompts(prompt_batch_batch, count=2),
    }
    for kind, prompts in asked.items():
        (packed,) = decoder_prompts(prompts, 256)
        np.testing.assert_array_equal(made[kind].point_labels.numpy(), packed.point_labels)
        np.testing.assert_allclose(made[kind].point_coords.numpy(), packed.point_coords, atol=1e-4)
        assert made[kind].mask_input is None and made[kind].has_mask_input is None


def test_corrections_join_the_prompts_with_the_previous_mask(
    prompt_batch_batch: TrainingSample,
) -> None:
    logits = torch.full((2, 1, 128, 128), -5.0, requires_grad=True)
    with torch.no_grad():
        logits[1] = 5.0  # nothing is found in the first image, everything in the second
    prompts = box_prompts(prompt_batch_batch, with_click=False)
    corrected = corrected_prompts(
        prompts, logits, prompt_batch_batch.mask, np.random.default_rng(0)
    )
    assert corrected.point_labels.tolist() == [[1.0, 2.0, 3.0], [0.0, 2.0, 3.0]]
    assert torch.equal(corrected.point_coords[:, 1:], prompts.point_coords)
    for index, label in ((0, 1.0), (1, 0.0)):
        x, y = corrected.point_coords[index, 0].int().tolist()
        assert prompt_batch_batch.mask[index, 0, y, x] == label
    assert corrected.mask_input is not None and corrected.has_mask_input is not None
    assert torch.equal(corrected.mask_input, logits)
    assert not corrected.mask_input.requires_grad
    assert corrected.has_mask_input.tolist() == [[1.0], [1.0]]


def test_a_frame_without_background_has_padding_for_the_click_off_the_lesion(
    prompt_batch_batch: TrainingSample,
) -> None:
    labels = torch.tensor([[-1.0], [0.0]])
    prompts = several_click_prompts(replace(prompt_batch_batch, background_label=labels), count=3)
    assert prompts.point_labels.tolist() == [[1, 1, 1, -1, -1], [1, 1, 1, 0, -1]]
    assert torch.equal(prompts.point_coords[:, :3], prompt_batch_batch.clicks)


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
        box=torch.tensor([[[1.0, 1.0], [2.0, 2.0]]]),
        clicks=torch.tensor([[[3.0, 3.0], [4.0, 4.0], [5.0, 5.0]]]),
        background_click=torch.tensor([[[6.0, 6.0]]]),
        background_label=torch.tensor([[0.0]]),
        mask_weight=torch.ones(1, 1),
        proposals=torch.zeros(1, 6, 1, 1),
        proposal_weights=torch.zeros(1, 2),
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
