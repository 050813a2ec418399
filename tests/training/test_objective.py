"""The loss of a step, against the same loss put together from its parts."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.config import DistillationConfig, TrainConfig
from samus_edge.training.losses import LossWeights, segmentation_loss
from samus_edge.training.objective import TrainingObjective, encode, set_training_mode
from samus_edge.training.prompt_schedule import PromptConfig, box_prompts, click_prompts
from samus_edge.training.training_samples import LesionDataset, TrainingSample, collate

TOLERANCE = 1e-6
"""Float32, losses around 1."""

BOX_ONLY = PromptConfig(
    box_and_click_probability=0.0,
    click_probability=0.0,
    second_click_probability=0.0,
    several_clicks_probability=0.0,
    refine_probability=0.0,
)


@pytest.fixture
def batch(bright_cases: list[UltrasoundCase]) -> TrainingSample:
    data = LesionDataset(bright_cases, image_size=256, augmentation=AugmentationConfig(), seed=0)
    return collate([data[0], data[1]])


def loss(model: SamusHF, config: TrainConfig, batch: TrainingSample) -> float:
    return float(TrainingObjective(model, config)(batch, np.random.default_rng(0)).detach())


def test_it_is_the_mean_over_the_prompts(
    make_small_model: Callable[..., SamusHF], batch: TrainingSample
) -> None:
    model = make_small_model(batch_norm=False)
    both = dataclasses.replace(BOX_ONLY, click_probability=1.0)
    weights = LossWeights(bce=0.7)
    config = TrainConfig(precision="fp32", prompts=both, loss=weights)
    embeddings = encode(model, batch)
    parts = [
        segmentation_loss(*model.decode(embeddings, *prompts), batch.mask, weights).mean()
        for prompts in (box_prompts(batch, with_click=False), click_prompts(batch))
    ]
    expected = float((parts[0] + parts[1]).detach() / 2)
    assert loss(model, config, batch) == pytest.approx(expected, abs=TOLERANCE)


def test_the_teachers_masks_get_their_share(
    make_small_model: Callable[..., SamusHF], batch: TrainingSample
) -> None:
    model = make_small_model(batch_norm=False)
    taught = dataclasses.replace(batch, teacher_mask=1.0 - batch.mask)
    config = TrainConfig(precision="fp32", prompts=BOX_ONLY)
    shared = dataclasses.replace(
        config, distillation=DistillationConfig(teacher="lite_medsam", mask_weight=0.25)
    )
    swapped = dataclasses.replace(taught, mask=taught.teacher_mask)
    expected = 0.75 * loss(model, config, taught) + 0.25 * loss(model, config, swapped)
    assert loss(model, shared, taught) == pytest.approx(expected, abs=TOLERANCE)


def test_a_correction_adds_half_of_its_loss(
    make_small_model: Callable[..., SamusHF], batch: TrainingSample
) -> None:
    """One more loss of about the same size, and a second one."""
    model = make_small_model(batch_norm=False)
    losses = []
    for probability, iterations in ((0.0, 1), (1.0, 1), (1.0, 2)):
        prompts = dataclasses.replace(
            BOX_ONLY, refine_probability=probability, refine_iterations=iterations
        )
        losses.append(loss(model, TrainConfig(precision="fp32", prompts=prompts), batch))
    plain, once, twice = losses
    assert 0.3 * plain < once - plain < 0.7 * plain
    assert 0.3 * plain < twice - once < 0.7 * plain


def test_mixed_precision_gives_about_the_same_loss_in_float32(
    make_small_model: Callable[..., SamusHF], batch: TrainingSample
) -> None:
    model = make_small_model()
    objective = TrainingObjective(model, TrainConfig(precision="bf16", prompts=BOX_ONLY))
    mixed = objective(batch, np.random.default_rng(0))
    assert mixed.dtype == torch.float32
    exact = loss(model, TrainConfig(precision="fp32", prompts=BOX_ONLY), batch)
    assert float(mixed.detach()) != exact  # it is in use
    assert float(mixed.detach()) == pytest.approx(exact, rel=0.02)  # bf16 keeps 8 bits


def test_frozen_batch_normalisation_keeps_its_statistics(
    make_small_model: Callable[..., SamusHF], batch: TrainingSample
) -> None:
    for frozen in (True, False):
        model = make_small_model()
        model.image_encoder.requires_grad_(not frozen)
        set_training_mode(model)
        assert model.mask_decoder.training
        before = model.image_encoder.get_buffer("norm.running_mean").clone()
        encode(model, batch)
        after = model.image_encoder.get_buffer("norm.running_mean")
        assert torch.equal(before, after) == frozen
