"""Views of training images with a teacher's embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase, read_image
from samus_edge.data.dataset import list_cases
from samus_edge.training.teacher_cache import TeacherCache
from samus_edge.training.teacher_views import TeacherViews, make_teacher_views

STILL = AugmentationConfig(
    rotation_deg=0, log_scale=0, log_aspect=0, translation=0, flip_probability=0
)


@dataclass
class GreyTeacher:
    """Embeds a frame as 2 x 32 x 32 averages of its grey levels, and counts what it was asked."""

    weights_sha256: str = "0"
    batches: list[int] = field(default_factory=list)

    def embeddings(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Averages, and averages negated."""
        self.batches.append(len(frames))
        grey = [cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA) / 255 for f in frames]
        means = torch.from_numpy(np.stack(grey)).float()
        return torch.stack((means, -means), dim=1)

    def masks(
        self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """Nothing."""
        return np.zeros((len(boxes), *image.shape), np.bool_)


@pytest.fixture
def make(
    bright_cases: list[UltrasoundCase], tmp_path: Path
) -> Callable[..., tuple[TeacherViews, GreyTeacher]]:
    """Makes views of two cases in one folder, with a teacher of its own each time."""

    def call(
        *,
        views: int = 3,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        teacher: GreyTeacher | None = None,
        cases: Sequence[UltrasoundCase] = bright_cases[:2],
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[TeacherViews, GreyTeacher]:
        teacher = teacher or GreyTeacher()
        made = make_teacher_views(
            teacher,
            cases,
            views=views,
            augmentation=augmentation or AugmentationConfig(),
            seed=seed,
            settings={"precision": "fp32"},
            cache=TeacherCache(tmp_path / "views"),
            progress=progress,
        )
        return made, teacher

    return call


Make = Callable[..., tuple[TeacherViews, GreyTeacher]]


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
        expected = GreyTeacher().embeddings([frame])[0]
        assert views.embedding(index).dtype == torch.float16
        # float16 keeps 11 bits of values up to 1
        torch.testing.assert_close(views.embedding(index).float(), expected, rtol=0, atol=5e-4)
    for one in range(3):
        for other in range(one):
            assert not np.array_equal(frames[one], frames[other])


def test_the_teacher_sees_neither_deformed_nor_coarser_frames(
    make: Make, bright_cases: list[UltrasoundCase]
) -> None:
    assert STILL.elastic_probability > 0 and STILL.resolution_probability > 0
    views, _ = make(views=8, augmentation=STILL)
    for index in range(16):
        assert np.array_equal(views.frame(index), read_image(bright_cases[index // 8]))


def test_views_depend_on_the_seed_alone(make: Make) -> None:
    first, _ = make()
    frames = [first.frame(index) for index in range(6)]
    other, _ = make(seed=1)
    assert not np.array_equal(other.frame(0), frames[0])
    again, teacher = make()
    assert teacher.batches == [3, 3]  # the other seed's views had taken their place
    assert all(np.array_equal(again.frame(index), frames[index]) for index in range(6))


def test_views_that_are_there_are_kept_and_others_are_made(
    make: Make, bright_cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    _, teacher = make(views=5)
    assert teacher.batches == [4, 1, 4, 1]  # at most four frames at a time
    for changed in (
        {},
        {"augmentation": AugmentationConfig(elastic_probability=0.9, log_gain=0.3)},
    ):
        assert make(views=5, **changed)[1].batches == []
    TeacherCache(tmp_path / "views").path(1).unlink()
    assert make(views=5)[1].batches == [4, 1]
    assert make(views=5, teacher=GreyTeacher("1"))[1].batches == [4, 1, 4, 1]
    assert make(views=5, augmentation=STILL)[1].batches == [4, 1, 4, 1]
    assert make(views=5, augmentation=STILL, cases=bright_cases[1::-1])[1].batches == [4, 1, 4, 1]


def test_an_image_that_has_changed_is_viewed_again(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "Dataset" / "benign"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (1, 2):
        pixels = rng.integers(0, 255, (40, 50), dtype=np.uint8)
        assert cv2.imwrite(str(root / f"benign ({number}).png"), pixels)
        assert cv2.imwrite(str(root / f"benign ({number})_mask.png"), pixels)
    cases = list_cases(root.parent)
    assert make(cases=cases)[1].batches == [3, 3]
    assert cv2.imwrite(str(root / "benign (2).png"), pixels[::-1])
    assert make(cases=cases)[1].batches == [3]


def test_variance_is_that_of_each_channel(make: Make) -> None:
    views, _ = make()
    values = np.stack([views.embedding(index).numpy() for index in range(6)]).astype(np.float64)
    channels = values.transpose(1, 0, 2, 3).reshape(2, -1)
    assert views.variance() == pytest.approx(channels.var(axis=1, ddof=1).mean(), rel=1e-9)
