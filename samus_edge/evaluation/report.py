"""What an evaluation found: one score per lesion and prompt, and their summary."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

import numpy as np

from samus_edge.runtime.atomic_write import write_files_atomically

__all__ = ["ALL_CLASSES", "EvaluationReport", "InstanceScore", "Spread", "Summary", "summarise"]

ALL_CLASSES: Final = "all"
"""Class name of a summary over every class."""

BOOTSTRAP_RESAMPLES: Final = 2000
"""Enough for the ends of a 95 % interval to be stable to about 0.001 Dice."""

INTERVAL_PERCENTILES: Final = (2.5, 97.5)


@dataclass(frozen=True)
class InstanceScore:
    """How well one lesion was segmented from one prompt."""

    key: str
    """Case key, such as ``"benign/benign (104)"``."""
    class_name: str
    """Class of the image."""
    instance: int
    """Number of the lesion in its image, from 0."""
    group: str
    """Images that share it are near-duplicates, or the same image."""
    prompt: str
    """Name of the prompt protocol."""
    prompt_coords: str
    """The prompt in pixels of the original image, ``"x1 y1 x2 y2"`` or ``"x y"``."""
    height: int
    """Of the image, pixels."""
    width: int
    """Of the image, pixels."""
    dice: float
    """Dice at the image's own size, 0..1."""
    iou: float
    """IoU at the image's own size, 0..1."""
    hd: float
    """Euclidean Hausdorff distance at 256x256, pixels."""
    hd_manhattan: float
    """Manhattan Hausdorff distance at 256x256, pixels."""
    hd95: float
    """95th-percentile Hausdorff distance of the outlines at 256x256, pixels."""
    hd_rows: float
    """The row distance that SAMUS's reference reports as Hausdorff distance, at 256x256, pixels."""
    iou_prediction: float
    """The model's own estimate of the IoU; not clipped."""


@dataclass(frozen=True)
class Spread:
    """A metric over many lesions."""

    mean: float
    median: float
    worst: float
    """The lowest overlap, or the largest distance."""


@dataclass(frozen=True)
class Summary:
    """The scores of one prompt protocol on one class, or on all."""

    prompt: str
    class_name: str
    """A class, or ``"all"``."""
    images: int
    """Number of images."""
    lesions: int
    """Number of lesions; every mean is over these."""
    dice: Spread
    dice_interval: tuple[float, float]
    """95 % bootstrap interval of the mean Dice; whole groups are resampled, see `summarise`."""
    dice_worst_key: str
    """Case with the lowest Dice."""
    iou: Spread
    hd: Spread
    hd_manhattan: Spread
    hd95: Spread
    hd_rows: Spread


@dataclass(frozen=True)
class EvaluationReport:
    """The result of `samus_edge.evaluation.evaluate.evaluate`."""

    scores: tuple[InstanceScore, ...]
    """One per lesion and prompt protocol, in the order evaluated."""
    summaries: tuple[Summary, ...]
    """For each prompt protocol: all classes, then each class."""
    seed: int
    """Of the prompts and of the bootstrap."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What was evaluated on what, for the reader."""

    def to_json(self) -> str:
        """The summaries as a JSON document; the scores are left to `to_csv`."""
        document = {
            "format": "samus-edge-evaluation",
            "format_version": "1.0",
            **self.about,
            "seed": self.seed,
            "summaries": [asdict(summary) for summary in self.summaries],
        }
        return json.dumps(document, indent=2) + "\n"

    def to_csv(self) -> str:
        """The scores as CSV: a header with the fields of `InstanceScore`, one line per score."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(
            text, [field.name for field in fields(InstanceScore)], lineterminator="\n"
        )
        writer.writeheader()
        for score in self.scores:
            row = asdict(score)
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        return text.getvalue()

    def write(self, json_path: Path | None = None, csv_path: Path | None = None) -> None:
        """Write the JSON document, the CSV file or both, each whole or not at all.

        Raises:
            OutputFileError: If a file cannot be written.
        """
        contents = {}
        if json_path is not None:
            contents[json_path] = self.to_json().encode()
        if csv_path is not None:
            contents[csv_path] = self.to_csv().encode()
        write_files_atomically(contents)


def summarise(scores: Sequence[InstanceScore], seed: int) -> tuple[Summary, ...]:
    """Summarise the scores for each prompt protocol: all classes together, then each class.

    The 95 % interval of the mean Dice is a percentile bootstrap of ``BOOTSTRAP_RESAMPLES``
    resamples. What is drawn with replacement are groups, not lesions: lesions of one image, and
    near-duplicate images, are no independent evidence, and treating them so would make the interval
    too narrow.

    Args:
        scores: Scores of any number of protocols and classes.
        seed: Seed of the bootstrap; each summary starts from it anew.

    Returns:
        Summaries, protocols in order of appearance, classes in alphabetical order.
    """
    summaries = []
    for prompt in dict.fromkeys(score.prompt for score in scores):
        of_prompt = [score for score in scores if score.prompt == prompt]
        summaries.append(_summary(of_prompt, ALL_CLASSES, seed))
        for class_name in sorted({score.class_name for score in of_prompt}):
            of_class = [score for score in of_prompt if score.class_name == class_name]
            summaries.append(_summary(of_class, class_name, seed))
    return tuple(summaries)


def _summary(scores: Sequence[InstanceScore], class_name: str, seed: int) -> Summary:
    return Summary(
        prompt=scores[0].prompt,
        class_name=class_name,
        images=len({score.key for score in scores}),
        lesions=len(scores),
        dice=_spread((score.dice for score in scores), min),
        dice_interval=_bootstrap_interval(scores, np.random.default_rng(seed)),
        dice_worst_key=min(scores, key=lambda score: score.dice).key,
        iou=_spread((score.iou for score in scores), min),
        hd=_spread((score.hd for score in scores), max),
        hd_manhattan=_spread((score.hd_manhattan for score in scores), max),
        hd95=_spread((score.hd95 for score in scores), max),
        hd_rows=_spread((score.hd_rows for score in scores), max),
    )


def _spread(values: Iterable[float], worst: Callable[[Sequence[float]], float]) -> Spread:
    listed = list(values)
    return Spread(float(np.mean(listed)), float(np.median(listed)), worst(listed))


def _bootstrap_interval(
    scores: Sequence[InstanceScore], rng: np.random.Generator
) -> tuple[float, float]:
    _, group_of = np.unique([score.group for score in scores], return_inverse=True)
    dices = np.array([score.dice for score in scores])
    totals = np.bincount(group_of, weights=dices)
    counts = np.bincount(group_of)
    drawn = rng.integers(len(counts), size=(BOOTSTRAP_RESAMPLES, len(counts)))
    means = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)  # (resamples,)
    low, high = np.percentile(means, INTERVAL_PERCENTILES)
    return float(low), float(high)
