"""Settings of learning from a teacher."""

from pathlib import Path
from typing import Any

import pytest

from samus_edge.training.config import TrainConfig
from samus_edge.training.config_file import read_config
from samus_edge.training.distillation_config import DistillationConfig


def test_nothing_is_learned_from_a_teacher_by_default() -> None:
    assert TrainConfig().distillation.teacher == "none"
    assert TrainConfig().distillation.mask_weight == 0.0


@pytest.mark.parametrize("teacher", ["none", "lite_medsam", "runs/vit_b/best.safetensors"])
def test_a_teacher_has_a_name_or_a_file(teacher: str) -> None:
    assert DistillationConfig(teacher=teacher).teacher == teacher


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("teacher", "medsam", "none, lite_medsam or a .safetensors file, got 'medsam'"),
        ("teacher", "best.pth", "none, lite_medsam or a .safetensors file, got 'best.pth'"),
        ("teacher", 3, "must be text, got 3"),
        ("views", 0, "must be positive, got 0"),
        ("views", 1.5, "must be an integer, got 1.5"),
        ("epochs", -1, "must be at least 0, got -1"),
        ("learning_rate", 0.0, "must be positive, got 0.0"),
        ("ema_decay", 1.0, r"must be in [0, 1), got 1.0"),
        ("mask_weight", 1.1, "must be in [0, 1], got 1.1"),
        ("min_teacher_dice", -0.1, "must be in [0, 1], got -0.1"),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        DistillationConfig(**{"teacher": "lite_medsam", name: value})
    assert str(caught.value).startswith(f"distillation.{name} ")
    assert expected in str(caught.value)


def test_masks_of_no_teacher_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_weight must be 0 without a teacher, got 0\.5"):
        DistillationConfig(mask_weight=0.5)


def test_the_section_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("distillation:\n  teacher: lite_medsam\n  mask_weight: 0.5\n")
    expected = DistillationConfig(teacher="lite_medsam", mask_weight=0.5)
    assert read_config(path) == TrainConfig(distillation=expected)
