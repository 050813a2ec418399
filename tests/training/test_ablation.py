"""The ablation: which trainings, when they are done, and what their scores sum up to."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.dataset import Subsets
from samus_edge.errors import DataError, WeightsError
from samus_edge.modeling import samus_hf_tiny
from samus_edge.training.ablation import (
    METRICS,
    AblationResults,
    AblationRun,
    ablation_runs,
    collect_results,
    draw_ablation,
    run_ablation,
)
from samus_edge.training.config import TrainConfig, config_document
from samus_edge.weights.model_file import load_model, save_model

ORDER = ["neither", "hf", "gate", "both"]


def test_every_seed_trains_every_variant_and_nothing_else_differs(tmp_path: Path) -> None:
    config = TrainConfig(epochs=3, hf=False, seed=9)
    runs = ablation_runs(config, tmp_path, [4, 2])
    assert [(run.variant, run.seed) for run in runs] == [
        (variant, seed) for seed in (4, 2) for variant in ORDER
    ]
    assert len({run.folder for run in runs}) == 8
    switches = {run.variant: (run.config.hf, run.config.gate) for run in runs}
    assert switches == {
        "neither": (False, False),
        "hf": (True, False),
        "gate": (False, True),
        "both": (True, True),
    }
    for run in runs:
        assert replace(run.config, hf=False, gate=True, seed=9) == config
        assert run.config.seed == run.seed


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_that_make_no_sense_are_refused(seeds: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seeds must be different and at least one, got \["):
        ablation_runs(TrainConfig(), tmp_path, seeds)


@pytest.fixture
def train() -> Callable[[AblationRun], Path]:
    """Stands for a training: writes what one writes, with random weights."""

    def write(run: AblationRun) -> Path:
        run.folder.mkdir()
        torch.manual_seed(run.seed)
        model = samus_hf_tiny(hf=run.config.hf, gate=run.config.gate)
        document = config_document(run.config)
        save_model(model, run.folder / "best.safetensors", document)
        (run.folder / "config.json").write_text(json.dumps(document))
        (run.folder / "state.pt").write_bytes(b"much")
        return run.folder / "best.safetensors"

    return write


def test_runs_are_evaluated_once_and_their_states_removed(
    train: Callable[[AblationRun], Path], bright_cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    subsets = Subsets(train=bright_cases[:3], val=bright_cases[3:4], test=bright_cases[4:])
    runs = ablation_runs(TrainConfig(), tmp_path, [0])
    trained: list[str] = []

    def note(run: AblationRun) -> Path:
        trained.append(run.variant)
        return train(run)

    run_ablation(runs[:2], subsets, note)  # as if it had been interrupted then
    scores = runs[0].scores_path.read_bytes()
    run_ablation(runs, subsets, note)
    assert trained == ORDER
    assert runs[0].scores_path.read_bytes() == scores
    assert load_model(runs[1].folder / "best.safetensors") is not None
    for run in runs:
        assert not (run.folder / "state.pt").exists()
        with run.scores_path.open(newline="") as file:
            assert {row["key"] for row in csv.DictReader(file)} == {bright_cases[4].key}

    other = ablation_runs(TrainConfig(epochs=2, num_workers=7), tmp_path, [0])
    with pytest.raises(WeightsError, match=r"another configuration, which differs in epochs\. Use"):
        run_ablation(other, subsets, note)
    with pytest.raises(WeightsError, match=r"neither_seed0 was made with other cases"):
        run_ablation(runs, replace(subsets, test=bright_cases[3:]), note)
    (runs[0].folder / "test_evaluation.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"neither_seed0 has scores but not what they are of"):
        run_ablation(runs, subsets, note)


def write_scores(run: AblationRun, dices: list[float], prompt: str = "box_5%") -> None:
    """Scores of three lesions in two images; a distance is 100 times what the Dice lacks."""
    run.folder.mkdir(exist_ok=True)
    with run.scores_path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "instance", "group", "prompt", *METRICS])
        for (key, instance), dice in zip(
            (("benign/1", 0), ("benign/1", 1), ("benign/2", 0)), dices, strict=True
        ):
            distance = 100 * (1 - dice)
            writer.writerow([key, instance, key, prompt, dice, dice, *[distance] * 4])


@pytest.fixture
def results(tmp_path: Path) -> AblationResults:
    """Two seeds; hf is better by 0.1, 0.1 and 0.3 with the first, and equal with the second."""
    runs = ablation_runs(TrainConfig(), tmp_path, [0, 1])
    for run in runs:
        better = run.config.hf and run.seed == 0
        base = [0.5, 0.6, 0.1] if run.seed == 0 else [0.7, 0.8, 0.3]
        gains = [0.1, 0.1, 0.3] if better else [0.0, 0.0, 0.0]
        write_scores(run, [b + gain for b, gain in zip(base, gains, strict=True)])
    return collect_results(runs)


def test_means_and_standard_deviations_over_seeds(results: AblationResults) -> None:
    """Means over lesions 0.4 and 0.6; with hf 0.4 + 0.5 / 3 and 0.6."""
    assert results.seeds == (0, 1)
    assert [(row.variant, row.prompt) for row in results.rows] == [
        (variant, "box_5%") for variant in ORDER
    ]
    dice = {row.variant: row.metrics["dice"] for row in results.rows}
    assert dice["neither"].per_seed == pytest.approx((0.4, 0.6))
    assert dice["neither"].mean == pytest.approx(0.5)
    assert dice["neither"].std == pytest.approx(0.2 / np.sqrt(2))  # of two numbers 0.2 apart
    assert dice["hf"].per_seed == pytest.approx((0.4 + 0.5 / 3, 0.6))
    assert dice["both"] == dice["hf"] and dice["gate"] == dice["neither"]
    assert results.rows[0].metrics["hd"].mean == pytest.approx(50.0)


def test_variants_are_compared_lesion_by_lesion_with_seeds_averaged(
    results: AblationResults,
) -> None:
    """Differences 0.05, 0.05, 0.15 in two groups: all four sign patterns are as far or nearer."""
    found = {(c.metric, c.result.second): c.result for c in results.comparisons}
    assert found.keys() == {(m, v) for m in ("dice", "hd") for v in ("hf", "gate", "both")}
    hf = found["dice", "hf"]
    assert (hf.first, hf.lesions, hf.groups) == ("neither", 3, 2)
    assert hf.mean_difference == pytest.approx(0.25 / 3)
    assert hf.interval == pytest.approx((0.05, 0.15))  # one group or the other alone
    assert hf.p_value == pytest.approx(0.5)  # ++ and -- of four
    assert found["hd", "hf"].mean_difference == pytest.approx(-25 / 3)
    assert found["dice", "gate"].mean_difference == 0 and found["dice", "gate"].p_value == 1


def test_the_document_says_what_it_is_about(results: AblationResults) -> None:
    document = json.loads(results.to_json({"data": "BUSI"}))
    assert (document["format"], document["data"]) == ("samus-edge-ablation", "BUSI")
    assert document["rows"][0]["metrics"]["dice"]["per_seed"] == pytest.approx([0.4, 0.6])
    assert document["comparisons"][0]["result"]["p_value"] == pytest.approx(0.5)


def test_one_seed_has_no_standard_deviation(tmp_path: Path) -> None:
    runs = ablation_runs(TrainConfig(), tmp_path, [0])
    for run in runs:
        write_scores(run, [0.5, 0.6, 0.7])
    results = collect_results(runs)
    assert all(row.metrics["dice"].std is None for row in results.rows)
    assert json.loads(results.to_json({}))["rows"][0]["metrics"]["dice"]["std"] is None
    assert draw_ablation(results).startswith(b"\x89PNG")


def test_the_chart_has_a_panel_for_each_metric(results: AblationResults) -> None:
    image = cv2.imdecode(np.frombuffer(draw_ablation(results), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert all((half < 100).sum() > 500 for half in np.array_split(image, 2))


def test_scores_of_other_lesions_or_none_are_named(tmp_path: Path) -> None:
    runs = ablation_runs(TrainConfig(), tmp_path, [0])
    for run in runs:
        write_scores(run, [0.5, 0.6, 0.7], prompt="point" if run.variant == "gate" else "box")
    with pytest.raises(DataError, match=r"gate_seed0/test_scores\.csv scores other lesions"):
        collect_results(runs)
    runs[2].scores_path.write_text("key,dice\na,b\n")
    with pytest.raises(DataError, match=r"gate_seed0/test_scores\.csv is not a file of scores"):
        collect_results(runs)
