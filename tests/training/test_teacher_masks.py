"""A teacher's masks of annotated lesions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import pi
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from samus_edge.data.case import UltrasoundCase, read_instances, select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError
from samus_edge.training.teacher_cache import TeacherCache
from samus_edge.training.teacher_masks import TeacherMasks, make_teacher_masks

ELLIPSE_IN_BOX = 2 * (pi / 4) / (1 + pi / 4)
"""Dice of an ellipse and the box around it."""


@dataclass
class BoxTeacher:
    """Takes the whole box for the lesion, and counts what it was asked."""

    weights_sha256: str = "0"
    boxes: list[int] = field(default_factory=list)

    def embeddings(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Nothing."""
        return torch.zeros(len(frames), 1, 32, 32)

    def masks(
        self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """The pixels of each box, its edges included."""
        self.boxes.append(len(boxes))
        masks = np.zeros((len(boxes), *image.shape), np.bool_)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
        return masks


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., TeacherMasks]:
    """Makes masks of cases in one folder."""

    def call(
        teacher: BoxTeacher, cases: Sequence[UltrasoundCase], min_dice: float = 0.7
    ) -> TeacherMasks:
        return make_teacher_masks(
            teacher,
            cases,
            min_dice=min_dice,
            settings={"precision": "fp32"},
            cache=TeacherCache(tmp_path / "masks"),
        )

    return call


Make = Callable[..., TeacherMasks]


def test_every_lesion_has_the_teachers_mask_of_its_box(make: Make, fake_busi: Path) -> None:
    cases = select_lesions(list_cases(fake_busi))
    teacher = BoxTeacher()
    taught = make(teacher, cases)
    assert teacher.boxes == [1, 2, 1, 1, 1]  # one case has two lesions
    assert taught.dices == [1.0] * 6  # every lesion is a rectangle
    for case, masks in zip(cases, taught.masks, strict=True):
        for mine, annotated in zip(masks, read_instances(case), strict=True):
            assert mine.dtype == np.bool_
            assert np.array_equal(mine, annotated)


def test_a_mask_that_agrees_too_little_gives_way_to_the_annotated_one(
    make: Make, bright_cases: list[UltrasoundCase]
) -> None:
    kept, left_out = (make(BoxTeacher(), bright_cases, value) for value in (0.7, 0.95))
    assert kept.dices == left_out.dices
    # the ellipses are about 40 pixels wide, so their outlines are rough
    assert kept.dices == [pytest.approx(ELLIPSE_IN_BOX, abs=0.02)] * 5
    for case, box, fallback in zip(bright_cases, kept.masks, left_out.masks, strict=True):
        (annotated,) = read_instances(case)
        rows, columns = np.nonzero(annotated)
        expected = np.zeros_like(annotated)
        expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        assert np.array_equal(box[0], expected)
        assert np.array_equal(fallback[0], annotated)
    assert f"a mean Dice of {sum(kept.dices) / 5:.3f};" in left_out.summary()
    assert "5 of 5 agree less than 0.95" in left_out.summary()
    assert "0 of 5 agree less than 0.7" in kept.summary()


def test_the_teacher_is_asked_once(make: Make, bright_cases: list[UltrasoundCase]) -> None:
    first = make(BoxTeacher(), bright_cases[:3])
    teacher = BoxTeacher()
    again = make(teacher, bright_cases, 0.8)  # two more cases
    assert teacher.boxes == [1, 1]
    for one, other in zip(first.masks, again.masks, strict=False):
        assert np.array_equal(one[0], other[0])
    other_teacher = BoxTeacher("1")
    make(other_teacher, bright_cases)
    assert len(other_teacher.boxes) == 5


def test_a_case_without_a_lesion_is_named(make: Make, fake_busi: Path) -> None:
    with pytest.raises(DataError, match=r"'normal/normal \(1\)' has no lesion"):
        make(BoxTeacher(), list_cases(fake_busi))
