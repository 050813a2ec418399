"""What an ablation found: means and spreads over seeds, and paired comparisons with the baseline."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from samus_edge.errors import DataError
from samus_edge.evaluation.paired_test import PairedComparison, compare_paired
from samus_edge.training.ablation import EVALUATION_SEED, VARIANTS, AblationRun

METRICS: Final = ("dice", "iou", "hd", "hd_manhattan", "hd95", "hd_rows")
"""Fields of `InstanceScore` that are summarised."""

COMPARED_METRICS: Final = ("dice", "hd")
BASELINE: Final = "neither"


@dataclass(frozen=True)
class SeedSpread:
    """A metric of one variant, mean over lesions, over its seeds."""

    mean: float
    std: float | None
    """Sample standard deviation; None with a single seed."""
    per_seed: tuple[float, ...]
    """In the order of the seeds."""


@dataclass(frozen=True)
class AblationRow:
    """One variant with one kind of prompt."""

    variant: str
    prompt: str
    """Name of the prompt protocol."""
    metrics: dict[str, SeedSpread]
    """By name, those of ``METRICS``."""


@dataclass(frozen=True)
class AblationComparison:
    """A variant against the baseline, on scores averaged over the seeds lesion by lesion."""

    prompt: str
    metric: str
    result: PairedComparison


@dataclass(frozen=True)
class AblationResults:
    """All that an ablation found."""

    seeds: tuple[int, ...]
    rows: tuple[AblationRow, ...]
    """Prompts in the order evaluated, in each the variants in the order of ``VARIANTS``."""
    comparisons: tuple[AblationComparison, ...]

    def to_json(self, about: dict[str, Any]) -> str:
        """As a JSON document.

        Args:
            about: what was trained and evaluated, put before the results.
        """
        document = {
            "format": "samus-edge-ablation",
            "format_version": "1.0",
            **about,
            "seeds": list(self.seeds),
            "rows": [asdict(row) for row in self.rows],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"


def collect_results(runs: Sequence[AblationRun]) -> AblationResults:
    """Read the scores of all runs and sum them up.

    Args:
        runs: finished runs, every variant with the same seeds.

    Raises:
        DataError: if a file of scores is not there, not readable, or not on the same lesions as the
            others.
    """
    seeds = tuple(dict.fromkeys(run.seed for run in runs))
    scores = {(run.variant, run.seed): _read_scores(run.scores_path) for run in runs}
    first = next(iter(scores.values()))
    for run in runs:
        if scores[run.variant, run.seed].lesions != first.lesions:
            raise DataError(
                f"{run.scores_path} scores other lesions than {runs[0].scores_path}. Remove the "
                "one that is not of this ablation."
            )
    rows, comparisons = [], []
    for prompt in dict.fromkeys(prompt for prompt, *_ in first.lesions):
        chosen = np.array([lesion[0] == prompt for lesion in first.lesions])
        groups = [lesion[3] for lesion in first.lesions if lesion[0] == prompt]
        # (seeds, lesions, metrics) of each variant
        values = {
            variant: np.stack([scores[variant, seed].values[chosen] for seed in seeds])
            for variant in VARIANTS
        }
        rows += [_row(variant, prompt, of_variant) for variant, of_variant in values.items()]
        for metric in COMPARED_METRICS:
            column = METRICS.index(metric)
            means = {name: value[:, :, column].mean(axis=0) for name, value in values.items()}
            comparisons += [
                AblationComparison(
                    prompt,
                    metric,
                    compare_paired(
                        means[BASELINE],
                        means[variant],
                        groups,
                        names=(BASELINE, variant),
                        seed=EVALUATION_SEED,
                    ),
                )
                for variant in VARIANTS
                if variant != BASELINE
            ]
    return AblationResults(seeds, tuple(rows), tuple(comparisons))


@dataclass(frozen=True)
class _Scores:
    """Scores of a run.

    Attributes:
        lesions: prompt, case key, number of the lesion and group of each row.
        values: (rows, metrics) the metrics of each.
    """

    lesions: list[tuple[str, str, str, str]]
    values: npt.NDArray[np.float64]


def _read_scores(path: Path) -> _Scores:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        lesions = [(row["prompt"], row["key"], row["instance"], row["group"]) for row in rows]
        values = np.array([[float(row[metric]) for metric in METRICS] for row in rows])
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError) as err:
        raise DataError(
            f"{path} is not a file of scores ({type(err).__name__}: {err}). "
            "Remove it to evaluate the run again."
        ) from err
    return _Scores(lesions, values)


def _row(variant: str, prompt: str, values: npt.NDArray[np.float64]) -> AblationRow:
    """Sum up one variant's (seeds, lesions, metrics)."""
    means = values.mean(axis=1)  # (seeds, metrics)
    metrics = {
        metric: SeedSpread(
            mean=float(of_metric.mean()),
            std=float(of_metric.std(ddof=1)) if len(of_metric) > 1 else None,
            per_seed=tuple(of_metric.tolist()),
        )
        for metric, of_metric in zip(METRICS, means.T, strict=True)
    }
    return AblationRow(variant, prompt, metrics)
