"""Batches: their share for each process, and their preparation ahead of use."""

import dataclasses
import threading

import pytest
import torch

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase
from samus_edge.training.batches import load_batches, share, to_device
from samus_edge.training.training_samples import LesionDataset, TrainingSample


def test_processes_share_a_batch_without_gaps() -> None:
    assert [share([7, 3, 5, 1], rank, 2) for rank in range(2)] == [[7, 3], [5, 1]]


@pytest.fixture
def data(bright_cases: list[UltrasoundCase]) -> LesionDataset:
    return LesionDataset(bright_cases, image_size=32, augmentation=AugmentationConfig(), seed=1)


def test_any_number_of_threads_gives_the_same_batches(data: LesionDataset) -> None:
    order = [[4, 0], [2, 2], [1, 3], [0, 1], [3, 4], [2, 0], [1, 1]]
    expected = list(load_batches(data, order, 0))
    for workers in (1, 3):
        found = list(load_batches(data, order, workers))
        assert len(found) == len(expected) == 7
        for one, other in zip(found, expected, strict=True):
            for field in dataclasses.fields(TrainingSample):
                assert torch.equal(getattr(one, field.name), getattr(other, field.name))


class Watched(LesionDataset):
    """Notes which samples are asked for; sample 3 is broken."""

    asked: list[int]

    def __getitem__(self, index: int) -> TrainingSample:
        self.asked.append(index)
        if index == 3:
            raise RuntimeError("broken sample")
        return super().__getitem__(index)


@pytest.fixture
def watched(bright_cases: list[UltrasoundCase]) -> Watched:
    data = Watched(bright_cases, image_size=32, augmentation=None, seed=1)
    data.asked = []
    return data


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_reaches_the_training_and_threads_end(watched: Watched, workers: int) -> None:
    threads = threading.active_count()
    batches = load_batches(watched, [[0], [1], [3], [2]], workers)
    assert next(batches).mask.shape == (1, 1, 32, 32)
    next(batches)
    with pytest.raises(RuntimeError, match="broken sample"):
        next(batches)
    assert threading.active_count() == threads


def test_only_a_few_batches_are_prepared_ahead_and_none_after_closing(watched: Watched) -> None:
    batches = load_batches(watched, [[0]] * 50, 1)
    next(batches)
    batches.close()
    assert len(watched.asked) <= 3


def test_a_batch_moves_as_a_whole(data: LesionDataset) -> None:
    batch = to_device(next(load_batches(data, [[0]], 0)), torch.device("meta"))
    for field in dataclasses.fields(TrainingSample):
        assert getattr(batch, field.name).device.type == "meta"
