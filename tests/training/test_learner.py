"""Optimisation steps: accumulation, clipping, skipping, averaging."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase
from samus_edge.errors import BackendError
from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.training.batches import TrainingData
from samus_edge.training.config import TrainConfig
from samus_edge.training.learner import (
    Learner,
    Processes,
    averaged_copy,
    make_optimizer,
    schedule_factor,
    training_processes,
)
from samus_edge.training.objective import MaskObjective
from samus_edge.training.prompt_schedule import PromptConfig
from samus_edge.training.training_samples import LesionDataset, TrainingSample, collate
from tests.training.small_training import assert_same, copied, small_model


def test_vectors_and_tables_are_not_decayed_and_the_decoder_learns_slower() -> None:
    model = samus_hf_tiny()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, TrainConfig())
    found: dict[str, tuple[float, float]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["peak_lr"], group["weight_decay"])
    assert found.keys() == set(names.values())
    for name, (rate, decay) in found.items():
        assert rate == (3e-4 if name.startswith("image_encoder.") else 1e-4)
        is_vector = model.get_parameter(name).ndim == 1 or "bias_table" in name
        assert decay == (0.0 if is_vector or name.endswith("gate.scale") else 0.05)


def test_frozen_parameters_are_left_out() -> None:
    model = small_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no trainable parameter\. Name parts"):
        make_optimizer(model, TrainConfig())
    kept = model.get_parameter("image_encoder.conv.weight").requires_grad_(True)
    groups = make_optimizer(model, TrainConfig()).param_groups
    assert [parameter is kept for group in groups for parameter in group["params"]] == [True]


@pytest.mark.parametrize(
    ("name", "kind", "betas"),
    [("adam", torch.optim.Adam, (0.9, 0.999)), ("adamw", torch.optim.AdamW, (0.9, 0.99))],
)
def test_the_optimizer_is_the_one_asked_for(
    name: str,
    kind: type[torch.optim.Optimizer],
    betas: tuple[float, float],
) -> None:
    optimizer = make_optimizer(small_model(), TrainConfig(optimizer=name))
    assert type(optimizer) is kind
    assert all(group["betas"] == betas for group in optimizer.param_groups)


def test_rates_warm_up_and_fall_along_a_cosine_or_stay() -> None:
    factors = [schedule_factor("cosine", step, 2, 6) for step in range(6)]
    cosine = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert factors == pytest.approx([0.5, 1.0, *cosine])
    assert [schedule_factor("constant", step, 2, 6) for step in range(6)] == [0.5, 1, 1, 1, 1, 1]
    assert schedule_factor("cosine", 0, 0, 1) == 1.0


def test_without_torchrun_this_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with training_processes("cpu") as processes:
        assert (processes.rank, processes.count, processes.device.type) == (0, 1, "cpu")
        assert processes.is_first
        values = torch.tensor([0.1, 3.0], dtype=torch.float64)
        assert torch.equal(processes.mean(values), values)
        with processes.first_before_others():
            pass


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "63")
    with (
        pytest.raises(BackendError, match=r"device: cuda needs 64 NVIDIA GPU\(s\) .* found \d"),
        training_processes("cuda"),
    ):
        pass


class Counter(nn.Module):
    """A number that is trained, one that is not, and an integer."""

    number: torch.Tensor
    integer: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.register_buffer("number", torch.tensor([10.0]))
        self.register_buffer("integer", torch.tensor([7]))


def test_numbers_are_averaged_and_integers_copied() -> None:
    """At a decay of 0.9 an averaged and truncated integer would stay below."""
    model = Counter()
    averaged = averaged_copy(model, 0.9)
    averaged.update_parameters(model)  # the first time copies
    for value in (2.0, 4.0):
        with torch.no_grad():
            model.weight.fill_(value)
            model.number.fill_(10 * value)
            model.integer.fill_(int(value) + 100)
        averaged.update_parameters(model)
    expected = 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4
    found = averaged.module
    assert isinstance(found, Counter)
    torch.testing.assert_close(found.weight.detach(), torch.tensor([expected]))
    torch.testing.assert_close(found.number, torch.tensor([10 * expected]))
    assert found.integer.tolist() == [104]


def test_a_decay_of_0_keeps_the_weights_themselves() -> None:
    model = Counter()
    averaged = averaged_copy(model, 0.0)
    for value in (0.1, 0.7, 0.3):
        with torch.no_grad():
            model.weight.fill_(value)
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.get_parameter("weight"), model.weight)


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
def make_learner(bright_cases: list[UltrasoundCase]) -> Callable[..., Learner]:
    """Makes a learner of the small model, without batch normalisation unless asked for."""

    def make(
        config: TrainConfig = CONFIG, *, model: SamusHF | None = None, batch_norm: bool = False
    ) -> Learner:
        model = model or small_model(batch_norm=batch_norm)
        objective = MaskObjective(model, config, TrainingData([], bright_cases[:1]))
        return Learner(objective, 10, Processes())

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
    make_learner: Callable[..., Learner], samples: list[TrainingSample]
) -> None:
    model = small_model(batch_norm=True)
    model.prompt_encoder.requires_grad_(False)
    model.image_encoder.requires_grad_(False)
    learner = make_learner(model=model)
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


def test_shares_of_a_batch_give_the_gradient_of_the_whole(
    make_learner: Callable[..., Learner], samples: list[TrainingSample]
) -> None:
    """Three threads take two, one and one of four images."""
    whole = make_learner(dataclasses.replace(CONFIG, shares=1))
    loss = whole.step(batches(samples, 4))
    shared = make_learner(dataclasses.replace(CONFIG, shares=3))
    assert shared.step(batches(samples, 4)) == pytest.approx(loss, abs=TOLERANCE)
    expected = gradients(whole)
    assert gradients(shared).keys() == expected.keys()
    for name, gradient in gradients(shared).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=TOLERANCE)


def test_batch_normalisation_sees_whole_batches(
    make_learner: Callable[..., Learner], samples: list[TrainingSample]
) -> None:
    whole, shared = (
        make_learner(dataclasses.replace(CONFIG, shares=shares), batch_norm=True)
        for shares in (1, 2)
    )
    assert whole.step(batches(samples, 4)) == shared.step(batches(samples, 4))
    assert_same(copied(whole.model), copied(shared.model))
