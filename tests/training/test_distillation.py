"""All that is learned from a teacher before a training on masks, with real small runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from samus_edge.data.case import UltrasoundCase, read_instances
from samus_edge.data.dataset import list_cases
from samus_edge.errors import JobInterruptedError, WeightsError
from samus_edge.modeling import SamusHF
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.training import distillation
from samus_edge.training.config import TrainConfig
from samus_edge.training.distillation import (
    FEATURES,
    MASKS,
    VIEWS,
    prepare_distillation,
)
from samus_edge.training.distillation_config import DistillationConfig
from samus_edge.training.samus_teacher import SamusTeacher
from samus_edge.training.stage_progress import StageProgress

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
    keys = (
        "normal/normal (1)",
        "benign/benign (1)",
        "malignant/malignant (1)",
        "benign/benign (2)",
    )
    return list_cases(fake_busi, keys)


@pytest.fixture(autouse=True)
def small_teacher(
    make_small_model: Callable[[], SamusHF], monkeypatch: pytest.MonkeyPatch
) -> SamusTeacher:
    """The teacher that every configuration names: small, as no weights file of ours is."""
    model = make_small_model()
    with torch.no_grad():
        for parameter in model.image_encoder.parameters():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    teacher = SamusTeacher(model, "f" * 64, precision="fp32", device=torch.device("cpu"))

    def load(name: str, *, precision: str, device: torch.device) -> SamusTeacher:
        assert (name, precision) == (CONFIG.distillation.teacher, CONFIG.precision)
        return teacher

    monkeypatch.setattr(distillation, "load_teacher", load)
    return teacher


def settings(**changes: object) -> TrainConfig:
    """`CONFIG` with other settings of the distillation."""
    changed = dataclasses.replace(CONFIG.distillation, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(CONFIG, distillation=changed)


def hashes(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = [str(path.relative_to(folder)) for path in paths]
    return {
        name: (sha256_of_file(path), path.stat().st_mtime_ns)
        for name, path in zip(names, paths, strict=True)
    }


def test_features_are_learned_from_all_images_and_masks_of_the_lesions(
    make_small_model: Callable[[], SamusHF], cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    model, lines, seen = make_small_model(), list[str](), list[StageProgress]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = prepare_distillation(
        model, CONFIG, cases, tmp_path / "run", report=lines.append, progress=seen.append
    )
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed and all(name.startswith("image_encoder.") for name in changed)
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


def test_a_second_call_finds_everything_done(
    make_small_model: Callable[[], SamusHF],
    cases: list[UltrasoundCase],
    small_teacher: SamusTeacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = make_small_model()
    masks = prepare_distillation(first, CONFIG, cases, tmp_path)
    before = hashes(tmp_path / "distillation")
    assert {Path(name).parts[0] for name in before} == {
        *("state.pt", "history.csv", "views", "masks")
    }
    monkeypatch.setattr(small_teacher, "embeddings", lambda frames: pytest.fail("asked again"))
    monkeypatch.setattr(small_teacher, "masks", lambda image, boxes: pytest.fail("asked again"))
    second = make_small_model()
    again = prepare_distillation(second, CONFIG, cases, tmp_path)
    assert masks is not None and again is not None
    for one, other in zip(masks, again, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    assert hashes(tmp_path / "distillation") == before


@pytest.mark.parametrize(
    ("calls", "where"),
    [
        (2, "2 of 4 of the teacher's views"),
        (7, "step 3 of 4"),
        (9, "1 of 3 of the teacher's masks"),
    ],
)
def test_an_interrupted_one_goes_on_with_the_same_bits(
    calls: int,
    where: str,
    make_small_model: Callable[[], SamusHF],
    cases: list[UltrasoundCase],
    tmp_path: Path,
) -> None:
    whole, parts = make_small_model(), make_small_model()
    prepare_distillation(whole, CONFIG, cases, tmp_path / "whole")
    answers = iter([False] * (calls - 1) + [True])
    with pytest.raises(JobInterruptedError, match=f"interrupted after {where}"):
        prepare_distillation(
            parts, CONFIG, cases, tmp_path / "parts", should_stop=lambda: next(answers)
        )
    parts = make_small_model()
    prepare_distillation(parts, CONFIG, cases, tmp_path / "parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], tensor), name


def test_each_half_can_be_left_out(
    make_small_model: Callable[[], SamusHF], cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    model = make_small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = prepare_distillation(model, settings(epochs=0), cases, tmp_path / "masks")
    assert masks is not None and len(masks) == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    only_features = settings(mask_weight=0.0)
    assert prepare_distillation(model, only_features, cases, tmp_path / "features") is None
    assert not (tmp_path / "features" / "distillation" / "masks").exists()


def test_without_a_teacher_nothing_happens(
    make_small_model: Callable[[], SamusHF], cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    config = settings(teacher="none", mask_weight=0.0)
    assert prepare_distillation(make_small_model(), config, cases, tmp_path / "run") is None
    assert not (tmp_path / "run").exists()


def test_another_start_or_configuration_is_refused(
    make_small_model: Callable[[], SamusHF], cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    prepare_distillation(make_small_model(), settings(epochs=1), cases, tmp_path)
    # what only concerns masks may change
    prepare_distillation(
        make_small_model(), settings(epochs=1, min_teacher_dice=0.5), cases, tmp_path
    )
    other = make_small_model()
    with torch.no_grad():
        other.image_encoder.get_parameter("conv.weight").mul_(2)
    with pytest.raises(WeightsError, match=r"with another start\. Use the same to resume"):
        prepare_distillation(other, settings(epochs=1), cases, tmp_path)
    with pytest.raises(WeightsError, match=r"with another distillation\.epochs\."):
        prepare_distillation(make_small_model(), CONFIG, cases, tmp_path)
    with pytest.raises(WeightsError, match=r"with another order of cases\."):
        prepare_distillation(make_small_model(), settings(epochs=1), cases[::-1], tmp_path)
