"""The ablation of the report's Table 1: what high-frequency image and gate are worth.

Four variants, each trained with several seeds and otherwise the same configuration, all evaluated on
the same prompts of the test subset.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from samus_edge.data.case import UltrasoundCase, select_lesions
from samus_edge.data.dataset import Subsets
from samus_edge.errors import WeightsError
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.prompt_protocol import CENTRE_POINT, JITTERED_BOX, PromptProtocol
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.training.config import OPERATIONAL_SETTINGS, TrainConfig, config_document
from samus_edge.training.distillation import DISTILLATION_FOLDER
from samus_edge.training.prompt_schedule import PromptConfig
from samus_edge.training.trainer import CONFIG_FILE, STATE_FILE

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
        ValueError: if there is no seed, or one is there twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different and at least one, got {list(seeds)}.")
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
        shutil.rmtree(run.folder / DISTILLATION_FOLDER, ignore_errors=True)
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
        own = config_document(run.config)
        keys = [
            key
            for key in {**own, **config}
            if key not in OPERATIONAL_SETTINGS and config.get(key) != own.get(key)
        ]
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
