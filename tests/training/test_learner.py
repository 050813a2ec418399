"""Optimisation steps: accumulation, clipping, skipping, averaging."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase
from samus_edge.data.training_samples import LesionDataset, TrainingSample, collate
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.config import TrainConfig
from samus_edge.training.learner import Learner
from samus_edge.training.processes import Processes
from samus_edge.training.prompt_schedule import PromptConfig

TOLERANCE = 1e-5
"""Of parameters around 0.1 after a step: images are summed in another order."""

CONFIG = TrainConfig(
    batch_size=2,
    learning_rate=1e-3,
    decoder_learning_rate=1e-3,
    warmup_steps=0,
    schedule="constant",
    optimizer="adam",
    weight_decay=0.0,
    precision="fp32",
    prompts=PromptConfig(
        second_click_probability=0.0, several_clicks_probability=0.0, refine_probability=0.0
    ),
)


@pytest.fixture
def samples(bright_cases: list[UltrasoundCase]) -> list[TrainingSample]:
    data = LesionDataset(bright_cases, image_size=256, augmentation=AugmentationConfig(), seed=0)
    return [data[index] for index in range(4)]


def batches(samples: list[TrainingSample], size: int) -> Iterator[TrainingSample]:
    starts = range(0, len(samples), size)
    return (collate(samples[start : start + size]) for start in starts)


@pytest.fixture
def make_learner(make_small_model: Callable[..., SamusHF]) -> Callable[..., Learner]:
    """Makes a learner of the small model, without batch normalisation unless asked for."""

    def make(config: TrainConfig = CONFIG, *, batch_norm: bool = False) -> Learner:
        model = make_small_model(batch_norm=batch_norm)
        return Learner(model, config, 10, Processes())

    return make


def parameters(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.model.named_parameters()}


def gradients(learner: Learner) -> dict[str, Tensor]:
    named = learner.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_accumulated_passes_are_one_step_of_all_their_images(
    make_learner: Callable[..., Learner], samples: list[TrainingSample]
) -> None:
    whole = make_learner()
    loss = whole.step(batches(samples, 4))
    parts = make_learner(dataclasses.replace(CONFIG, accumulation_steps=2))
    assert parts.step(batches(samples, 2)) == pytest.approx(loss, abs=TOLERANCE)
    assert whole.steps_done == parts.steps_done == 1
    expected = gradients(whole)
    for name, gradient in gradients(parts).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=TOLERANCE)


@pytest.mark.parametrize("limit", [0.05, 0.0])
def test_the_gradient_is_clipped_to_its_norm_or_not_at_all(
    make_learner: Callable[..., Learner], samples: list[TrainingSample], limit: float
) -> None:
    free = make_learner(dataclasses.replace(CONFIG, gradient_clip=1e6))
    free.step(batches(samples[:2], 2))
    raw = gradients(free)
    norm = torch.cat([gradient.flatten() for gradient in raw.values()]).norm()
    assert norm > 0.05
    learner = make_learner(dataclasses.replace(CONFIG, gradient_clip=limit))
    learner.step(batches(samples[:2], 2))
    factor = limit / norm if limit else 1.0
    for name, gradient in gradients(learner).items():
        torch.testing.assert_close(gradient, raw[name] * factor, rtol=1e-4, atol=1e-9)


def test_a_first_step_of_adam_moves_every_weight_by_its_rate(
    make_learner: Callable[..., Learner], samples: list[TrainingSample]
) -> None:
    """m / sqrt(v) is the gradient's sign in the first step."""
    learner = make_learner()
    before = parameters(learner)
    learner.step(batches(samples[:2], 2))
    assert learner.learning_rate == 1e-3
    after, signs = parameters(learner), gradients(learner)
    name = "mask_decoder.iou_token.weight"
    clear = signs[name].abs() > 1e-6  # beyond Adam's epsilon
    assert clear.any()
    moved = (before[name] - after[name])[clear]
    torch.testing.assert_close(moved, 1e-3 * signs[name][clear].sign(), rtol=0.02, atol=0)


def test_frozen_parts_do_not_move(
    make_small_model: Callable[..., SamusHF], samples: list[TrainingSample]
) -> None:
    model = make_small_model(batch_norm=True)
    model.prompt_encoder.requires_grad_(False)
    model.image_encoder.requires_grad_(False)
    learner = Learner(model, CONFIG, 10, Processes())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learner.step(batches(samples[:2], 2))
    after = model.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"mask_decoder"}


def test_a_step_whose_gradient_is_not_finite_is_skipped(
    make_learner: Callable[..., Learner], samples: list[TrainingSample]
) -> None:
    learner = make_learner()
    before = parameters(learner)
    vars(learner.model.image_encoder)["poisoned"] = True
    learner.step(batches(samples[:2], 2))
    assert (learner.skipped_steps, learner.steps_done) == (1, 1)
    assert all(torch.equal(value, before[name]) for name, value in parameters(learner).items())
    vars(learner.model.image_encoder)["poisoned"] = False
    learner.step(batches(samples[:2], 2))
    assert learner.skipped_steps == 1


def test_a_learner_goes_on_from_its_state(
    make_learner: Callable[..., Learner], samples: list[TrainingSample]
) -> None:
    def state_after(learner: Learner, steps: int) -> dict[str, Any]:
        for _ in range(steps):
            learner.step(batches(samples[:2], 2))
        return learner.state_dict()

    whole = make_learner(batch_norm=True)
    state_after(whole, 2)
    first, second = make_learner(batch_norm=True), make_learner(batch_norm=True)
    second.load_state_dict(state_after(first, 1))
    state_after(second, 1)
    assert second.steps_done == 2
    for one, other in ((whole.model, second.model), (whole.averaged, second.averaged)):
        expected = one.state_dict()
        for name, tensor in other.state_dict().items():
            assert torch.equal(tensor, expected[name])


def test_the_average_follows_the_model(
    make_learner: Callable[..., Learner], samples: list[TrainingSample]
) -> None:
    learner = make_learner(dataclasses.replace(CONFIG, ema_decay=0.9))
    name = "image_encoder.conv.weight"
    learner.step(batches(samples[:2], 2))
    expected = learner.model.get_parameter(name).detach().clone()
    for _ in range(2):
        learner.step(batches(samples[:2], 2))
        expected = 0.9 * expected + 0.1 * learner.model.get_parameter(name).detach()
    torch.testing.assert_close(learner.averaged.get_parameter(name), expected, rtol=0, atol=1e-6)
