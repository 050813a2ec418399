"""Features and masks that are learned from a teacher, with real small runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase, read_instances
from samus_edge.data.dataset import list_cases
from samus_edge.errors import JobInterruptedError, WeightsError
from samus_edge.runtime.images.output_files import sha256_of_file
from samus_edge.training import distillation
from samus_edge.training.batches import StageProgress
from samus_edge.training.config import DistillationConfig, TrainConfig
from samus_edge.training.distillation import (
    FEATURES,
    MASKS,
    VIEWS,
    FeatureObjective,
    prepare_distillation,
)
from samus_edge.training.history import EpochRecord
from samus_edge.training.teacher_cache import TeacherCache, TeacherViews, make_teacher_views
from samus_edge.training.teachers import SamusTeacher
from samus_edge.training.trainer import StepRecord, Trainer
from tests.training.small_training import assert_same, copied, small_model

SMALL = TrainConfig(
    batch_size=4,
    warmup_steps=2,
    weight_decay=0.0,
    precision="fp32",
    augmentation=AugmentationConfig(
        log_gamma=0.05,
        log_gain=0.05,
        offset=0.0,
        attenuation_probability=0.0,
        shadow_probability=0.0,
        speckle_probability=0.0,
        blur_probability=0.0,
        resolution_probability=0.1,
        min_resolution=0.9,
    ),
    distillation=DistillationConfig(
        teacher="lite_medsam", views=2, epochs=2, learning_rate=1e-2, ema_decay=0.5
    ),
)
"""Ten views, two steps an epoch."""

KERNEL = "image_encoder.conv.weight"


def changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A configuration with other settings of the distillation."""
    settings = dataclasses.replace(config.distillation, **changes)
    return dataclasses.replace(config, distillation=settings)


@pytest.fixture
def views(bright_cases: list[UltrasoundCase], tmp_path: Path) -> TeacherViews:
    """Two views of each of five images by a teacher with the student's architecture."""
    model = small_model()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model.get_parameter(KERNEL).normal_(std=0.1)
    teacher = SamusTeacher(model, "", precision="fp32", device=torch.device("cpu"))
    return make_teacher_views(
        teacher,
        bright_cases,
        views=2,
        augmentation=SMALL.augmentation,
        seed=0,
        precision="fp32",
        cache=TeacherCache(tmp_path / "views"),
    )


@pytest.fixture
def make(views: TeacherViews, tmp_path: Path) -> Callable[..., Trainer]:
    """Makes a distillation into a fresh small model, in a given folder."""

    def call(folder: str, config: TrainConfig = SMALL) -> Trainer:
        objective = FeatureObjective(small_model(), config, views, {}, "")
        return Trainer(objective, tmp_path / folder)

    return call


Make = Callable[..., Trainer]


def test_a_teacher_of_the_same_architecture_is_learned(make: Make) -> None:
    """Normalisation is frozen in the teacher's state, so that the student can become the
    teacher."""
    epochs: list[EpochRecord] = []
    steps: list[StepRecord] = []
    trainer = make("run", changed(SMALL, epochs=15))
    model = trainer.objective.model
    model.image_encoder.get_submodule("norm").requires_grad_(False)
    before = copied(model)
    trainer.run(epochs.append, steps.append)
    assert [record.epoch for record in epochs] == list(range(1, 16))
    assert steps[0].loss > 0.8  # an encoder that knows the mean has 1
    # what is left is the change of appearance, which the teacher does not see
    assert epochs[-1].train_loss < 0.25
    assert [step.step for step in steps] == list(range(1, 31))
    for record in epochs:
        two = [step.loss for step in steps[2 * record.epoch - 2 : 2 * record.epoch]]
        assert record.train_loss == pytest.approx(sum(two) / 2)
        assert record.val_loss is None
    for name, tensor in copied(model).items():
        is_learned = name.startswith("image_encoder.conv.")
        assert torch.equal(tensor, before[name]) == (not is_learned), name


def test_the_seed_alone_decides_and_the_schedule_is_the_distillations_own(make: Make) -> None:
    config = dataclasses.replace(SMALL, schedule="constant", optimizer="adam", num_workers=0)
    runs = {
        name: make(name, config)
        for name, config in (
            ("one", SMALL),
            ("two", dataclasses.replace(config, accumulation_steps=2)),
            ("three", dataclasses.replace(SMALL, seed=1)),
        )
    }
    for run in runs.values():
        run.run()
    one, two, three = (copied(run.objective.model) for run in runs.values())
    assert_same(one, two)
    assert not torch.equal(one[KERNEL], three[KERNEL])


def test_mixed_precision_learns_about_the_same(make: Make) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        run = make(precision, dataclasses.replace(SMALL, precision=precision))
        run.run()
        losses.append(run.history[0].train_loss)
    assert losses[0] != losses[1]
    # bf16 keeps 8 bits; two steps do not multiply its rounding
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_too_few_views_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match=r"feature distillation needs .*batch_size 11 .* got 10"):
        make("run", dataclasses.replace(SMALL, batch_size=11))


CONFIG = TrainConfig(
    batch_size=2,
    warmup_steps=1,
    precision="fp32",
    distillation=DistillationConfig(
        teacher="teacher.safetensors", views=1, epochs=2, mask_weight=0.5, min_teacher_dice=1.0
    ),
)


@pytest.fixture
def cases(fake_busi: Path) -> list[UltrasoundCase]:
    """Four images; the first has no lesion, the last has two."""
    keys = ("normal/normal (1)", "benign/benign (1)", "malignant/malignant (1)")
    return list_cases(fake_busi, (*keys, "benign/benign (2)"))


@pytest.fixture(autouse=True)
def small_teacher(monkeypatch: pytest.MonkeyPatch) -> SamusTeacher:
    """The teacher that every configuration names: small, as no weights file of ours is."""
    model = small_model()
    with torch.no_grad():
        for parameter in model.image_encoder.parameters():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    teacher = SamusTeacher(model, "f" * 64, precision="fp32", device=torch.device("cpu"))

    def load(name: str, *, precision: str, device: torch.device) -> SamusTeacher:
        assert (name, precision) == (CONFIG.distillation.teacher, CONFIG.precision)
        return teacher

    monkeypatch.setattr(distillation, "load_teacher", load)
    return teacher


def hashes(folder: Path) -> dict[str, str]:
    """Hash and time of every file that is not written anew by each run."""
    return {
        str(path.relative_to(folder)): f"{sha256_of_file(path)} {path.stat().st_mtime_ns}"
        for path in folder.rglob("*")
        if path.is_file() and path.name != "config.json"
    }


def test_the_encoder_learns_from_all_images_and_masks_are_those_of_the_lesions(
    cases: list[UltrasoundCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, lines, seen = small_model(), list[str](), list[StageProgress]()
    before, kernels = copied(model), list[Tensor]()

    def note(progress: StageProgress) -> None:
        seen.append(progress)
        if progress.stage == FEATURES:
            kernels.append(model.get_parameter(KERNEL).detach().clone())

    config = changed(CONFIG, ema_decay=0.5)
    masks = prepare_distillation(
        model, config, cases, tmp_path / "run", report=lines.append, progress=note
    )
    for name, tensor in model.state_dict().items():
        if not name.startswith("image_encoder."):
            assert torch.equal(tensor, before[name]), name
    average = kernels[0]
    for kernel in kernels[1:]:
        average = 0.5 * average + 0.5 * kernel
    torch.testing.assert_close(model.get_parameter(KERNEL).detach(), average, rtol=0, atol=1e-6)
    assert masks is not None and [len(found) for found in masks] == [1, 1, 2]
    for found, case in zip(masks, cases[1:], strict=True):
        for mine, annotated in zip(found, read_instances(case), strict=True):
            # random weights do not hit a mask exactly, so the annotated ones stay
            assert np.array_equal(mine, annotated)
    assert [(one.stage, one.done, one.total) for one in seen] == [
        *((VIEWS, done, 4) for done in (1, 2, 3, 4)),
        *((FEATURES, done, 4) for done in (1, 2, 3, 4)),
        *((MASKS, done, 3) for done in (1, 2, 3)),
    ]
    assert [line.split(":")[0] for line in lines[:2]] == [
        "feature distillation, epoch 1 of 2",
        "feature distillation, epoch 2 of 2",
    ]
    assert "4 of 4 agree less than 1" in lines[2]


def test_a_second_call_finds_everything_done_and_needs_no_views(
    cases: list[UltrasoundCase],
    small_teacher: SamusTeacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensorboard_events: Callable[[Path], list[Any]],
) -> None:
    first, second, folder = small_model(), small_model(), tmp_path / "distillation"
    masks = prepare_distillation(first, CONFIG, cases, tmp_path, tensorboard=True)
    tags = {v.tag for e in tensorboard_events(folder / "tensorboard") for v in e.summary.value}
    assert tags == {"loss/step", "learning_rate", "loss/train"}
    for path in (folder / "views").iterdir():
        path.unlink()
    before = hashes(folder)
    assert {"state.pt", "history.csv", "curves.png"} < before.keys()
    monkeypatch.setattr(small_teacher, "embeddings", lambda frames: pytest.fail("asked again"))
    monkeypatch.setattr(small_teacher, "masks", lambda image, boxes: pytest.fail("asked again"))
    again = prepare_distillation(second, CONFIG, cases, tmp_path)
    assert masks is not None and again is not None
    for one, other in zip(masks, again, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    assert_same(second.state_dict(), first.state_dict())
    assert hashes(folder) == before


@pytest.mark.parametrize(
    ("calls", "where"),
    [
        (2, "interrupted after 2 of 4 of the teacher's views"),
        (5, "feature distillation interrupted after step 1 of 4"),
        (7, "feature distillation interrupted after step 3 of 4"),
        (9, "interrupted after 1 of 3 of the teacher's masks"),
    ],
)
def test_an_interrupted_one_goes_on_with_the_same_bits(
    calls: int, where: str, cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    whole, parts, resumed = (small_model() for _ in range(3))
    prepare_distillation(whole, CONFIG, cases, tmp_path / "whole")
    answers = iter([False] * (calls - 1) + [True])
    with pytest.raises(JobInterruptedError, match=rf"{where}.* run the same command again"):
        prepare_distillation(
            parts, CONFIG, cases, tmp_path / "parts", should_stop=lambda: next(answers)
        )
    prepare_distillation(resumed, CONFIG, cases, tmp_path / "parts")
    assert_same(resumed.state_dict(), whole.state_dict())
    files = [tmp_path / folder / "distillation/history.csv" for folder in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_each_half_can_be_left_out_and_both_without_a_teacher(
    cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    model = small_model()
    before = copied(model)
    masks = prepare_distillation(model, changed(CONFIG, epochs=0), cases, tmp_path / "masks")
    assert masks is not None and len(masks) == 3
    none = changed(CONFIG, teacher="none", mask_weight=0.0)
    assert prepare_distillation(model, none, cases, tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    assert_same(model.state_dict(), before)
    only_features = changed(CONFIG, mask_weight=0.0)
    assert prepare_distillation(model, only_features, cases, tmp_path / "features") is None
    assert not (tmp_path / "features" / "distillation" / "masks").exists()


def test_another_start_or_configuration_is_refused(
    cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    config = changed(CONFIG, epochs=1)
    prepare_distillation(small_model(), config, cases, tmp_path)
    # what only concerns masks may change
    prepare_distillation(small_model(), changed(config, min_teacher_dice=0.5), cases, tmp_path)
    other = small_model()
    with torch.no_grad():
        other.get_parameter(KERNEL).mul_(2)
    for model, config_, cases_, difference in (
        (other, config, cases, "differs in start"),
        (small_model(), CONFIG, cases, r"differs in distillation\.epochs"),
        (small_model(), config, cases[::-1], "other cases or another order"),
    ):
        with pytest.raises(WeightsError, match=rf"{difference}.* Use the same to resume"):
            prepare_distillation(model, config_, cases_, tmp_path)
