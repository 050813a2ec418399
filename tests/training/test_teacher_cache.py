"""A teacher's views and masks in files: what they hold, and when the teacher is asked again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import pi
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError, OutputFileError
from samus_edge.training.teacher_cache import (
    TeacherCache,
    TeacherMasks,
    TeacherViews,
    fingerprint_of,
    make_teacher_masks,
    make_teacher_views,
)


def test_tensors_come_back_and_belong_to_their_fingerprint(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "new" / "views")
    assert not cache.holds(3, "a")
    one, other = torch.arange(6, dtype=torch.uint8).view(2, 3), torch.randn(4).half()
    cache.write(3, "a", {"one": one, "other": other})
    assert cache.holds(3, "a")
    assert not cache.holds(3, "b") and not cache.holds(2, "a")
    assert torch.equal(cache.read(3, "one"), one) and torch.equal(cache.read(3, "other"), other)
    cache.write(3, "b", {"one": one + 1})
    assert cache.holds(3, "b") and not cache.holds(3, "a")
    assert torch.equal(cache.read(3, "one"), one + 1)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100, None])
def test_a_damaged_file_is_as_good_as_none(content: bytes | None, tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path)
    cache.write(0, "a", {"one": torch.zeros(1)})
    whole = cache.path(0).read_bytes()
    cache.path(0).write_bytes(whole[:-1] if content is None else content)
    assert not cache.holds(0, "a")


def test_a_fingerprint_tells_settings_and_arrays_apart() -> None:
    array = np.arange(6, dtype=np.uint8)
    variants = [
        fingerprint_of({"a": 1, "b": 2}, array),
        fingerprint_of({"a": 1, "b": 3}, array),
        fingerprint_of({"a": 1}, array),
        fingerprint_of({"a": 1, "b": 2}, array[::-1]),
        fingerprint_of({"a": 1, "b": 2}, array.reshape(2, 3)),
        fingerprint_of({"a": 1, "b": 2}, array.view(np.int8)),
        fingerprint_of({"a": 1, "b": 2}, array, array),
    ]
    assert len(set(variants)) == len(variants)
    assert fingerprint_of({"b": 2, "a": 1}, array.copy()) == variants[0]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFileError, match=r"file/views cannot be created"):
        TeacherCache(tmp_path / "file" / "views")


@dataclass
class SimpleTeacher:
    """Embeds grey levels as averages, takes boxes for lesions, and counts what it was asked."""

    weights_sha256: str = "0"
    asked: list[int] = field(default_factory=list)

    def embeddings(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """2 x 32 x 32: averages of the grey levels, and these negated."""
        self.asked.append(len(frames))
        grey = [cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA) / 255 for f in frames]
        means = torch.from_numpy(np.stack(grey)).float()
        return torch.stack((means, -means), dim=1)

    def masks(
        self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """The pixels of each box, its edges included."""
        self.asked.append(len(boxes))
        masks = np.zeros((len(boxes), *image.shape), np.bool_)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
        return masks


STILL = AugmentationConfig(
    rotation_deg=0, log_scale=0, log_aspect=0, translation=0, flip_probability=0
)

Make = Callable[..., tuple[TeacherViews, list[int]]]


@pytest.fixture
def make(bright_cases: list[UltrasoundCase], tmp_path: Path) -> Make:
    """Makes views of two cases in one folder; they, and how many frames each batch had."""

    def call(sha256: str = "0", **changes: Any) -> tuple[TeacherViews, list[int]]:
        teacher = SimpleTeacher(sha256)
        settings: dict[str, Any] = {
            "cases": bright_cases[:2],
            "views": 3,
            "augmentation": AugmentationConfig(),
            "seed": 0,
            "precision": "fp32",
            "cache": TeacherCache(tmp_path / "views"),
        }
        return make_teacher_views(teacher, **settings | changes), teacher.asked

    return call


def test_each_view_is_another_and_comes_with_its_embedding(
    make: Make, bright_cases: list[UltrasoundCase]
) -> None:
    done: list[int] = []
    views, _ = make(progress=done.append)
    assert len(views) == 6 and done == [3, 6]
    frames = [views.frame(index) for index in range(6)]
    for index, frame in enumerate(frames):
        assert frame.shape == read_image(bright_cases[index // 3]).shape
        assert frame.dtype == np.uint8
        expected = SimpleTeacher().embeddings([frame])[0]
        assert views.embedding(index).dtype == torch.float16
        # float16 keeps 11 bits of values up to 1
        torch.testing.assert_close(views.embedding(index).float(), expected, rtol=0, atol=5e-4)
        assert not any(np.array_equal(frame, other) for other in frames[:index])
    values = np.stack([views.embedding(index).numpy() for index in range(6)]).astype(np.float64)
    channels = values.transpose(1, 0, 2, 3).reshape(2, -1)
    assert views.variance() == pytest.approx(channels.var(axis=1, ddof=1).mean(), rel=1e-9)


def test_the_teacher_sees_neither_deformed_nor_coarser_frames(
    make: Make, bright_cases: list[UltrasoundCase]
) -> None:
    assert STILL.elastic_probability > 0 and STILL.resolution_probability > 0
    views, _ = make(views=8, augmentation=STILL)
    for index in range(16):
        assert np.array_equal(views.frame(index), read_image(bright_cases[index // 8]))


def test_views_that_are_there_are_kept_and_others_are_made(
    make: Make, bright_cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    first, asked = make(views=5)
    assert asked == [4, 1, 4, 1]  # at most four frames at a time
    frame = first.frame(0)
    appearance = AugmentationConfig(elastic_probability=0.9, log_gain=0.3)
    assert make(views=5)[1] == make(views=5, augmentation=appearance)[1] == []
    TeacherCache(tmp_path / "views").path(1).unlink()
    assert make(views=5)[1] == [4, 1]
    for changes in (
        {"seed": 1},
        {"sha256": "1"},
        {"precision": "bf16"},
        {"augmentation": STILL},
        {"augmentation": STILL, "cases": bright_cases[1::-1]},
    ):
        other, asked = make(views=5, **changes)
        assert asked == [4, 1, 4, 1], changes
        if "seed" in changes:
            assert not np.array_equal(other.frame(0), frame)
    again, _ = make(views=5)
    assert np.array_equal(again.frame(0), frame)


def test_an_image_that_has_changed_is_viewed_again(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "Dataset" / "benign"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (1, 2):
        pixels = rng.integers(0, 255, (40, 50), dtype=np.uint8)
        assert cv2.imwrite(str(root / f"benign ({number}).png"), pixels)
        assert cv2.imwrite(str(root / f"benign ({number})_mask.png"), pixels)
    cases = list_cases(root.parent)
    assert make(cases=cases)[1] == [3, 3]
    assert cv2.imwrite(str(root / "benign (2).png"), pixels[::-1])
    assert make(cases=cases)[1] == [3]


ELLIPSE_IN_BOX = 2 * (pi / 4) / (1 + pi / 4)
"""Dice of an ellipse and the box around it."""

MakeMasks = Callable[..., TeacherMasks]


@pytest.fixture
def make_masks(tmp_path: Path) -> MakeMasks:
    """Makes masks of cases in one folder."""

    def call(
        teacher: SimpleTeacher, cases: Sequence[UltrasoundCase], min_dice: float = 0.7
    ) -> TeacherMasks:
        cache = TeacherCache(tmp_path / "masks")
        return make_teacher_masks(teacher, cases, min_dice=min_dice, precision="fp32", cache=cache)

    return call


def test_every_lesion_has_the_teachers_mask_of_its_box(
    make_masks: MakeMasks, fake_busi: Path
) -> None:
    cases = select_lesions(list_cases(fake_busi))
    teacher = SimpleTeacher()
    taught = make_masks(teacher, cases)
    assert teacher.asked == [1, 2, 1, 1, 1]  # one case has two lesions
    assert taught.dices == [1.0] * 6  # every lesion is a rectangle
    for case, masks in zip(cases, taught.masks, strict=True):
        for mine, annotated in zip(masks, read_instances(case), strict=True):
            assert mine.dtype == np.bool_
            assert np.array_equal(mine, annotated)
    with pytest.raises(DataError, match=r"'normal/normal \(1\)' has no lesion"):
        make_masks(teacher, list_cases(fake_busi))


def test_a_mask_that_agrees_too_little_gives_way_to_the_annotated_one(
    make_masks: MakeMasks, bright_cases: list[UltrasoundCase]
) -> None:
    kept, left_out = (make_masks(SimpleTeacher(), bright_cases, value) for value in (0.7, 0.95))
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


def test_the_teacher_is_asked_once_for_its_masks(
    make_masks: MakeMasks, bright_cases: list[UltrasoundCase]
) -> None:
    first = make_masks(SimpleTeacher(), bright_cases[:3])
    teacher, other_teacher = SimpleTeacher(), SimpleTeacher("1")
    again = make_masks(teacher, bright_cases, 0.8)  # two more cases
    assert teacher.asked == [1, 1]
    for one, other in zip(first.masks, again.masks, strict=False):
        assert np.array_equal(one[0], other[0])
    make_masks(other_teacher, bright_cases)
    assert len(other_teacher.asked) == 5
