"""Scores summed up by prompt, class and lesion size."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from samus_edge.evaluation.group_bootstrap import bootstrap_interval
from samus_edge.evaluation.instance_score import InstanceScore
from samus_edge.evaluation.lesion_size import LESION_SIZES

__all__ = ["ALL_CLASSES", "ALL_SIZES", "Spread", "Summary", "spread", "summarise"]

ALL_CLASSES: Final = "all"
"""Class name of a summary over every class."""

ALL_SIZES: Final = "all"
"""Size of a summary over every lesion size."""


@dataclass(frozen=True)
class Spread:
    """A metric over many lesions."""

    mean: float
    median: float
    worst: float
    """The lowest overlap, or the largest distance."""


@dataclass(frozen=True)
class Summary:
    """The scores of one prompt protocol on one class or one lesion size, or on all."""

    prompt: str
    class_name: str
    """A class, or ``"all"``."""
    size: str
    """One of ``LESION_SIZES``, or ``"all"``; see `samus_edge.evaluation.lesion_size`."""
    images: int
    """Number of images."""
    lesions: int
    """Number of lesions; every mean is over these."""
    dice: Spread
    dice_interval: tuple[float, float]
    """95 % interval of the mean Dice; whole groups are resampled, see `bootstrap_interval`."""
    dice_worst_key: str
    """Case with the lowest Dice."""
    iou: Spread
    nsd: Spread
    hd: Spread
    hd_manhattan: Spread
    hd95: Spread
    hd_rows: Spread


def summarise(scores: Sequence[InstanceScore], seed: int) -> tuple[Summary, ...]:
    """Summarise the scores of each prompt protocol: all together, by class, by lesion size.

    Args:
        scores: Scores of any number of protocols and classes.
        seed: Seed of the bootstrap; each summary starts from it anew.

    Returns:
        Summaries, protocols in order of appearance; in each first that over everything, then the
        classes in alphabetical order, then the sizes from small to large. What holds no lesion has
        no summary.
    """
    summaries = []
    for prompt in dict.fromkeys(score.prompt for score in scores):
        of_prompt = [score for score in scores if score.prompt == prompt]
        summaries.append(_summary(of_prompt, ALL_CLASSES, ALL_SIZES, seed))
        for class_name in sorted({score.class_name for score in of_prompt}):
            of_class = [score for score in of_prompt if score.class_name == class_name]
            summaries.append(_summary(of_class, class_name, ALL_SIZES, seed))
        for size in LESION_SIZES:
            of_size = [score for score in of_prompt if score.size == size]
            if of_size:
                summaries.append(_summary(of_size, ALL_CLASSES, size, seed))
    return tuple(summaries)


def spread(values: Iterable[float], worst: Callable[[Sequence[float]], float]) -> Spread:
    """Mean, median and worst of at least one value; ``worst`` is `min` or `max`."""
    listed = list(values)
    return Spread(float(np.mean(listed)), float(np.median(listed)), worst(listed))


def _summary(scores: Sequence[InstanceScore], class_name: str, size: str, seed: int) -> Summary:
    return Summary(
        prompt=scores[0].prompt,
        class_name=class_name,
        size=size,
        images=len({score.key for score in scores}),
        lesions=len(scores),
        dice=spread((score.dice for score in scores), min),
        dice_interval=bootstrap_interval(
            [score.dice for score in scores],
            [score.group for score in scores],
            np.random.default_rng(seed),
        ),
        dice_worst_key=min(scores, key=lambda score: score.dice).key,
        iou=spread((score.iou for score in scores), min),
        nsd=spread((score.nsd for score in scores), min),
        hd=spread((score.hd for score in scores), max),
        hd_manhattan=spread((score.hd_manhattan for score in scores), max),
        hd95=spread((score.hd95 for score in scores), max),
        hd_rows=spread((score.hd_rows for score in scores), max),
    )
