"""The ablation of the report's Table 1: what high-frequency image and gate are worth.

Four variants, each trained with several seeds and otherwise the same configuration, all evaluated
on the same prompts of the test subset.
"""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, select_lesions
from samus_edge.data.collection import joined
from samus_edge.data.dataset import Subsets
from samus_edge.data.prompt_protocol import CENTRE_POINT, JITTERED_BOX, PromptProtocol
from samus_edge.errors import BadArgumentError, DataError, WeightsError
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.paired_comparison import PairedComparison, compare_paired
from samus_edge.evaluation.summary import ALL_CLASSES, ALL_SIZES
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.reporting.figure import new_figure, png_bytes
from samus_edge.runtime.images.output_files import sha256_of_file
from samus_edge.training.config import TrainConfig, config_document, differing_settings
from samus_edge.training.prompt_schedule import PromptConfig
from samus_edge.training.trainer import CONFIG_FILE, STATE_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


VARIANTS: Final[Mapping[str, tuple[bool, bool]]] = MappingProxyType(
    {
        "neither": (False, False),
        "hf": (True, False),
        "gate": (False, True),
        "both": (True, True),
    }
)
"""Whether the high-frequency image and the gate are there, by the variant's name."""

SCORES_FILE = "test_scores.csv"
EVALUATION_FILE = "test_evaluation.json"
EVALUATION_SEED = 0


@dataclass(frozen=True)
class AblationRun:
    """One training of the ablation.

    Attributes:
        variant: its variant, one of ``VARIANTS``.
        seed: its seed.
        config: its configuration.
        folder: its folder.
    """

    variant: str
    seed: int
    config: TrainConfig
    folder: Path

    @property
    def name(self) -> str:
        """What it is called in a log."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def scores_path(self) -> Path:
        """The scores on the test subset, one row per lesion and prompt; there when it is done."""
        return self.folder / SCORES_FILE


def ablation_runs(config: TrainConfig, out_dir: Path, seeds: Sequence[int]) -> list[AblationRun]:
    """The trainings of an ablation, all variants of the first seed first.

    Args:
        config: the configuration; its `hf`, `gate` and `seed` are replaced.
        out_dir: folder of the ablation.
        seeds: seeds, at least one, each once.

    Raises:
        BadArgumentError: if there is no seed, or one is there twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise BadArgumentError(f"seeds must be different and at least one, got {list(seeds)}.")
    return [
        AblationRun(
            variant,
            seed,
            dataclasses.replace(config, hf=hf, gate=gate, seed=seed),
            out_dir / f"{variant}_seed{seed}",
        )
        for seed in seeds
        for variant, (hf, gate) in VARIANTS.items()
    ]


def leave_out_runs(config: TrainConfig, out_dir: Path, names: Sequence[str]) -> list[AblationRun]:
    """Trainings on all datasets but one, one for each name, which is its variant.

    Args:
        config: the configuration, with at least two datasets.
        out_dir: folder of the runs.
        names: datasets to leave out, each once.

    Raises:
        BadArgumentError: if there is no such dataset, or it is the only one.
    """
    titles = [dataset.title for dataset in config.datasets]
    unknown = [name for name in names if name not in titles]
    if unknown or len(titles) < 2 or len(set(names)) < len(names):
        raise BadArgumentError(
            f"datasets to leave out must be different and among several, got {', '.join(names)} "
            f"of {', '.join(titles) or 'none'}. List datasets in the configuration."
        )
    return [
        AblationRun(
            name,
            config.seed,
            dataclasses.replace(
                config, datasets=tuple(each for each in config.datasets if each.title != name)
            ),
            out_dir / f"without_{name}",
        )
        for name in names
    ]


def left_out_subsets(found: Mapping[str, Subsets], name: str) -> Subsets:
    """What a run without a dataset trains and validates on, and all of that dataset to test on."""
    others = joined([subsets for other, subsets in found.items() if other != name])
    own = found[name]
    return Subsets(others.train, others.val, [*own.train, *own.val, *own.test], own.groups)


@dataclass(frozen=True)
class LeftOutRow:
    """How well a dataset is segmented by a training that has not seen it.

    Attributes:
        dataset: its name.
        prompt: name of the prompt protocol.
        lesions: number of lesions.
        dice: mean Dice.
        dice_interval: its 95 % interval.
    """

    dataset: str
    prompt: str
    lesions: int
    dice: float
    dice_interval: tuple[float, float]


def left_out_rows(runs: Sequence[AblationRun]) -> list[LeftOutRow]:
    """The results of finished runs of :func:`leave_out_runs`."""
    rows = []
    for run in runs:
        document = json.loads((run.folder / EVALUATION_FILE).read_text(encoding="utf-8"))
        for summary in document["summaries"]:
            if (summary["class_name"], summary["size"]) == (ALL_CLASSES, ALL_SIZES):
                low, high = summary["dice_interval"]
                mean, count = summary["dice"]["mean"], summary["lesions"]
                rows.append(LeftOutRow(run.variant, summary["prompt"], count, mean, (low, high)))
    return rows


def run_ablation(
    runs: Sequence[AblationRun],
    subsets: Subsets,
    train: Callable[[AblationRun], Path],
    on_run: Callable[[AblationRun], None] = lambda run: None,
) -> None:
    """Train and evaluate every run that is not done yet.

    A run is done when its scores are there; its training state, which takes the most space, is
    removed then.

    Args:
        runs: from :func:`ablation_runs`.
        subsets: `test` is evaluated on; `train` and `val` are what ``train`` uses.
        train: trains a run in its folder, or goes on with it, and returns its best weights.
        on_run: called after each run.

    Raises:
        WeightsError: if a run's folder holds one with another configuration or other cases.
        DataError: if the test subset has no lesions, or files are broken.
        OutputFileError: if a file cannot be written.
    """
    test_cases = select_lesions(subsets.test)
    cases = _fingerprint([*subsets.train, *subsets.val, *test_cases])
    for run in runs:
        if run.scores_path.exists():
            _check_done(run, cases)
        else:
            _evaluate(run, train(run), test_cases, subsets.groups, cases)
        (run.folder / STATE_FILE).unlink(missing_ok=True)
        on_run(run)


def _evaluate(
    run: AblationRun,
    weights: Path,
    test_cases: Sequence[UltrasoundCase],
    groups: Mapping[str, int],
    cases: str,
) -> None:
    about = {"run": run.name, "weights_sha256": sha256_of_file(weights), "cases_sha256": cases}
    predictor = TorchPredictor.load(weights)
    report = evaluate(
        predictor,
        test_cases,
        protocols=_trained_protocols(run.config.prompts),
        seed=EVALUATION_SEED,
        groups=groups,
        about=about,
    )
    # in this order: the scores say that the run is done
    report.write(json_path=run.folder / EVALUATION_FILE, csv_path=run.scores_path)


def _trained_protocols(prompts: PromptConfig) -> list[PromptProtocol]:
    """The standard prompts of the kinds that were trained; others would measure chance."""
    kinds = ((JITTERED_BOX, prompts.box_probability), (CENTRE_POINT, prompts.click_probability))
    return [protocol for protocol, probability in kinds if probability > 0]


def _check_done(run: AblationRun, cases: str) -> None:
    """Refuse the results of another ablation."""
    try:
        config = json.loads((run.folder / CONFIG_FILE).read_text(encoding="utf-8"))
        about = json.loads((run.folder / EVALUATION_FILE).read_text(encoding="utf-8"))
        stored_cases = about["cases_sha256"]
        keys = differing_settings(config_document(run.config), config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise WeightsError(
            f"{run.folder} has scores but not what they are of ({type(err).__name__}: {err}). "
            "Remove it to train it again."
        ) from err
    problems = [f"another configuration, which differs in {', '.join(keys)}"] if keys else []
    problems += ["other cases"] if stored_cases != cases else []
    if problems:
        raise WeightsError(
            f"{run.folder} was made with {' and '.join(problems)}. "
            "Use the same to go on, or another folder."
        )


def _fingerprint(cases: Sequence[UltrasoundCase]) -> str:
    text = "\n".join(case.key for case in cases).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()


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
            about: description of the training and evaluation, put before the results.
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


TITLES = {"dice": "Dice", "hd": "Hausdorff distance, pixels at 256x256"}


def draw_ablation(results: AblationResults) -> bytes:
    """Draw every seed, and mean and standard deviation over seeds, of each variant.

    Args:
        results: the results.

    Returns:
        A PNG file: a row for each of Dice and Hausdorff distance, a column for each kind of prompt.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    prompts = list(dict.fromkeys(row.prompt for row in results.rows))
    figure = new_figure(4.0 * len(prompts), 3.2 * len(TITLES))
    panels = figure.subplots(len(TITLES), len(prompts), squeeze=False)
    for metric, axes_of_metric in zip(TITLES, panels, strict=True):
        for prompt, axes in zip(prompts, axes_of_metric, strict=True):
            _draw_panel(axes, results, prompt, metric)
    return png_bytes(figure)


def _draw_panel(axes: "Axes", results: AblationResults, prompt: str, metric: str) -> None:
    rows = {row.variant: row.metrics[metric] for row in results.rows if row.prompt == prompt}
    for position, variant in enumerate(VARIANTS):
        spread = rows[variant]
        axes.plot([position] * len(spread.per_seed), spread.per_seed, "o", color="0.6", ms=4)
        std = spread.std or 0.0
        axes.errorbar(position + 0.15, spread.mean, std, fmt="s", color="black", ms=5, capsize=3)
    axes.set_xticks(range(len(VARIANTS)), list(VARIANTS))
    axes.set_xlim(-0.5, len(VARIANTS) - 0.5)
    axes.set_title(f"{TITLES[metric]}\n{prompt}", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
