"""The loss of a step, put together from its parts by hand, and the scores of a known model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.batches import TrainingData
from samus_edge.training.config import TrainConfig
from samus_edge.training.losses import LossWeights, segmentation_loss
from samus_edge.training.objective import MaskObjective, _rounded, encode, set_training_mode
from samus_edge.training.prompt_schedule import PromptConfig, box_prompts, click_prompts
from samus_edge.training.training_samples import LesionDataset, TrainingSample, collate
from samus_edge.weights.bundle_file import load_bundle_model
from tests.training.small_training import assert_same, copied, small_model

TOLERANCE = 1e-6
"""Float32, losses around 1."""

BOX_ONLY = PromptConfig(
    box_and_click_probability=0.0,
    click_probability=0.0,
    second_click_probability=0.0,
    several_clicks_probability=0.0,
    refine_probability=0.0,
)
CONFIG = TrainConfig(precision="fp32", prompts=BOX_ONLY)

Make = Callable[..., MaskObjective]


@pytest.fixture
def make(bright_cases: list[UltrasoundCase]) -> Make:
    """Makes an objective of two training and all validation cases."""

    def call(config: TrainConfig, model: SamusHF | None = None) -> MaskObjective:
        data = TrainingData(bright_cases[:2], bright_cases)
        return MaskObjective(model or small_model(batch_norm=False), config, data)

    return call


@pytest.fixture
def batch(bright_cases: list[UltrasoundCase]) -> TrainingSample:
    data = LesionDataset(bright_cases, image_size=256, augmentation=AugmentationConfig(), seed=0)
    return collate([data[0], data[1]])


def loss(objective: MaskObjective, batch: TrainingSample) -> float:
    return float(objective(batch, np.random.default_rng(0)).detach())


def test_it_is_the_mean_over_the_prompts(make: Make, batch: TrainingSample) -> None:
    both = dataclasses.replace(BOX_ONLY, click_probability=1.0)
    weights = LossWeights(bce=0.7)
    objective = make(dataclasses.replace(CONFIG, prompts=both, loss=weights))
    model = objective.model
    embeddings = encode(model, batch)
    parts = [
        segmentation_loss(*model.decode(embeddings, *prompts), batch.mask, weights).mean()
        for prompts in (box_prompts(batch, with_click=False), click_prompts(batch))
    ]
    expected = float((parts[0] + parts[1]).detach() / 2)
    assert loss(objective, batch) == pytest.approx(expected, abs=TOLERANCE)


def test_a_correction_adds_half_of_its_loss(make: Make, batch: TrainingSample) -> None:
    """One more loss of about the same size, and a second one."""
    losses = []
    for probability, iterations in ((0.0, 1), (1.0, 1), (1.0, 2)):
        prompts = dataclasses.replace(
            BOX_ONLY, refine_probability=probability, refine_iterations=iterations
        )
        losses.append(loss(make(dataclasses.replace(CONFIG, prompts=prompts)), batch))
    plain, once, twice = losses
    assert 0.3 * plain < once - plain < 0.7 * plain
    assert 0.3 * plain < twice - once < 0.7 * plain


def test_mixed_precision_gives_about_the_same_loss_in_float32(
    make: Make, batch: TrainingSample
) -> None:
    model = small_model()
    objective = make(dataclasses.replace(CONFIG, precision="bf16"), model)
    mixed = objective(batch, np.random.default_rng(0))
    assert mixed.dtype == torch.float32
    exact = loss(make(CONFIG, model), batch)
    assert float(mixed.detach()) != exact  # it is in use
    assert float(mixed.detach()) == pytest.approx(exact, rel=0.02)  # bf16 keeps 8 bits


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_normalisation_keeps_its_statistics(
    batch: TrainingSample, frozen: bool
) -> None:
    model = small_model()
    model.image_encoder.requires_grad_(not frozen)
    set_training_mode(model)
    assert model.mask_decoder.training
    before = model.image_encoder.get_buffer("norm.running_mean").clone()
    encode(model, batch)
    after = model.image_encoder.get_buffer("norm.running_mean")
    assert torch.equal(before, after) == frozen


@pytest.mark.parametrize("kinds", [("box", "point"), ("box",), ("point",)])
def test_scores_of_a_model_that_marks_everything_for_a_box_and_nothing_for_a_click(
    make: Make, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...]
) -> None:
    """Dice of everything with an area fraction a is 2a / (1 + a); MSE 1 - a; of nothing 0 and a."""
    model = small_model()

    def decode(embeddings: Tensor, coords: Tensor, labels: Tensor, *rest: Any) -> Any:
        sign = torch.where((labels == 2).any(dim=1), 40.0, -40.0)
        logits = sign[:, None, None, None] * torch.ones(len(labels), 4, 128, 128)
        return logits, torch.zeros(len(labels), 4)

    monkeypatch.setattr(model, "decode", decode)
    prompts = PromptConfig(
        box_probability=float("box" in kinds), click_probability=float("point" in kinds)
    )
    weights = LossWeights(dice=0, mse=1, multimask=0, iou=0)
    objective = make(TrainConfig(batch_size=2, prompts=prompts, loss=weights), model)
    areas = [float(objective.val_samples[index].mask.mean()) for index in range(5)]
    scores = objective.validate(model)
    dice = sum(2 * a / (1 + a) for a in areas) / 5
    assert scores.dice_box == (pytest.approx(dice, abs=1e-6) if "box" in kinds else None)
    assert scores.dice_point == (0.0 if "point" in kinds else None)
    mean = sum(areas) / 5
    losses = {"box": 1 - mean, "point": mean}
    expected = sum(losses[kind] for kind in kinds) / len(kinds)
    assert scores.loss == pytest.approx(expected, abs=1e-6)
    assert not model.training


def test_each_dataset_counts_the_same_in_validation(bright_cases: list[UltrasoundCase]) -> None:
    names = ["one", "one", "one", "other", "one"]
    named = [dataclasses.replace(c, dataset=n) for c, n in zip(bright_cases, names, strict=True)]
    model = small_model(batch_norm=False)
    of = {
        name: MaskObjective(
            model, CONFIG, TrainingData(named[:1], [c for c in named if c.dataset == name])
        ).validate(model)
        for name in ("one", "other")
    }
    both = MaskObjective(model, CONFIG, TrainingData(named[:1], named)).validate(model)
    assert both is not None and set(both.datasets) == {"one", "other"}
    for name, alone in of.items():
        assert alone is not None and alone.datasets == {}
        expected = {"loss": alone.loss, "box": alone.dice_box}
        assert both.datasets[name] == pytest.approx(expected, abs=TOLERANCE)
    losses = [scores["loss"] for scores in both.datasets.values()]
    assert both.loss == pytest.approx(sum(losses) / 2, abs=TOLERANCE)


def test_half_precision_agrees_with_full_and_leaves_the_weights_as_they_are(
    batch: TrainingSample,
) -> None:
    model = small_model(batch_norm=False)
    before = copied(model)
    embeddings = {half: encode(model, batch, half=half) for half in (False, True)}
    assert embeddings[True].dtype == torch.bfloat16
    gradients = {}
    direction = torch.randn(embeddings[False].shape, generator=torch.Generator().manual_seed(0))
    for half, each in embeddings.items():
        model.zero_grad()
        torch.autograd.backward((each.float() * direction).sum())
        gradients[half] = model.image_encoder.get_parameter("conv.weight").grad
    assert_same(copied(model), before)
    for found in (embeddings, gradients):
        exact, rounded = found[False], found[True]
        assert exact is not None and rounded is not None
        error = (rounded.float() - exact).abs().max() / exact.abs().max()
        assert error < 0.02  # bfloat16 has 8 bits


def test_no_gradient_in_half_precision_is_of_memory_that_was_used_before() -> None:
    """The same batch twice, with memory in between that was full of large numbers."""
    encoder = load_bundle_model().image_encoder.requires_grad_(True).train()
    images = torch.rand(2, 4, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    norms = []
    for _ in range(3):
        used = [torch.full((size,), 1e30) for size in (10**4, 10**5, 10**6) for _ in range(4)]
        del used
        encoder.zero_grad()
        layout = torch.channels_last
        grey, high = (image.contiguous(memory_format=layout).bfloat16() for image in images)
        torch.autograd.backward(_rounded(encoder)(grey, high).float().square().sum())
        gradients = [p.grad.norm() for p in encoder.parameters() if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))
    assert max(norms) < 1e6 and max(norms) == pytest.approx(min(norms), rel=0.05)
