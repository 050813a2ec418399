"""Batches: their share for each process, and their preparation ahead of use."""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from samus_edge.data.case import CaseSource, UltrasoundCase
from samus_edge.data.collection import DatasetConfig
from samus_edge.runtime.backends.backend import usable_cores
from samus_edge.training.training_samples import LesionDataset, TrainingSample, collate


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from, and what it is judged by.

    Attributes:
        train_cases: cases with lesions to learn from.
        val_cases: cases with lesions to choose the best weights by.
        normal_cases: cases without a lesion to learn from, if any.
        source: decoded cases; None to decode them and hold them in memory.
        datasets: how often each dataset is seen, and in what windows; empty for one dataset.
    """

    train_cases: Sequence[UltrasoundCase]
    val_cases: Sequence[UltrasoundCase]
    normal_cases: Sequence[UltrasoundCase] = ()
    source: CaseSource | None = None
    datasets: Sequence[DatasetConfig] = ()

    def fingerprint(self) -> str:
        """Tells the cases and their order from others: 16 hexadecimal digits."""
        names = [
            "\n".join(f"{case.dataset}:{case.key}" if case.dataset else case.key for case in cases)
            for cases in (self.train_cases, self.val_cases, self.normal_cases)
        ]
        text = "\n\n".join(names).encode(errors="surrogateescape")
        return hashlib.sha256(text).hexdigest()[:16]


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is.

    Attributes:
        stage: its name.
        done: number of cases that are done.
        total: their number in all.
    """

    stage: str
    done: int
    total: int


# Prepared batches that wait, for each thread: enough to bridge one that takes long.
BATCHES_AHEAD = 2


def load_batches(
    data: LesionDataset, batches: Sequence[Sequence[int]], num_workers: int
) -> Generator[TrainingSample, None, None]:
    """Prepare batches, ahead of their use if there are threads for it.

    Samples depend on (seed, epoch, index) alone, so the number of threads changes nothing. Threads
    are enough: decoding, resizing and filtering leave Python's lock, and cases stay in memory once.

    Args:
        data: the samples; its epoch must not change before the iteration ends.
        batches: indices of each batch.
        num_workers: threads; 0 to prepare each batch when it is asked for.
    """
    if num_workers == 0:
        for batch in batches:
            yield _load(data, batch)
        return
    remaining = deque(batches)
    pending: deque[Future[TrainingSample]] = deque()
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="samples")
    try:
        while remaining or pending:
            while remaining and len(pending) < BATCHES_AHEAD * num_workers:
                pending.append(executor.submit(_load, data, remaining.popleft()))
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def share(batch: Sequence[int], rank: int, count: int) -> Sequence[int]:
    """The samples of a batch that are one process's; the batch divides evenly."""
    size = len(batch) // count
    return batch[rank * size : (rank + 1) * size]


def share_threads(count: int) -> ThreadPoolExecutor:
    """Threads that compute at the same time, each with its share of the processors."""
    processors = max(1, usable_cores() // count)
    return ThreadPoolExecutor(
        count, "share", initializer=torch.set_num_threads, initargs=(processors,)
    )


def split_batch(batch: TrainingSample, count: int) -> list[TrainingSample]:
    """Parts of a batch, as equal as can be, at most as many as it has samples."""
    names = [field.name for field in dataclasses.fields(batch)]
    parts = zip(*(getattr(batch, name).tensor_split(count) for name in names), strict=True)
    return [
        dataclasses.replace(batch, **dict(zip(names, tensors, strict=True)))
        for tensors in parts
        if len(tensors[0])
    ]


def to_device(batch: TrainingSample, device: torch.device) -> TrainingSample:
    """The batch on a device."""
    names = [field.name for field in dataclasses.fields(batch)]
    return dataclasses.replace(batch, **{name: getattr(batch, name).to(device) for name in names})


def _load(data: LesionDataset, batch: Sequence[int]) -> TrainingSample:
    return collate([data[index] for index in batch])
