"""The command `samus-edge ablate`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def arguments(fake_busi: Path, fake_split: Path, tmp_path: Path) -> list[str]:
    """An ablation of one epoch of one step on `fake_busi`, with one seed."""
    return [
        *("--data", str(fake_busi), "--split", str(fake_split), "--out", str(tmp_path / "out")),
        *("--epochs", "1", "--set", "batch_size=2", "--set", "precision=fp32"),
        *("--set", "prompts.several_clicks_probability=0", "--seeds", "3"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("lite_medsam_checkpoint")
def test_four_variants_are_trained_compared_and_not_repeated(
    run: Run, arguments: list[str], tmp_path: Path
) -> None:
    outcome = run("ablate", *arguments)
    assert outcome.exit_code == 0, outcome.stderr
    variants = ["neither", "hf", "gate", "both"]
    done = [line for line in outcome.stdout.splitlines() if line.startswith("done: ")]
    assert done == [f"done: {variant}, seed 3" for variant in variants]
    assert [line.split(", ")[0] for line in outcome.stderr.splitlines()] == variants
    for text in ("box_5%", "centre_point", "both - neither", "over 1 seed(s)"):
        assert text in outcome.stdout
    out = tmp_path / "out"
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert document["seeds"] == [3]
    assert document["config"]["epochs"] == 1
    assert {row["variant"] for row in document["rows"]} == set(variants)
    assert {row["result"]["lesions"] for row in document["comparisons"]} == {3}
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")

    results = (out / "results.json").read_bytes()
    again = run("ablate", *arguments)
    assert again.exit_code == 0 and again.stderr == ""  # no epoch
    assert (out / "results.json").read_bytes() == results
    other = run("ablate", *arguments, "--set", "seed=1", "--set", "loss.bce=1")
    assert other.exit_code == 1
    assert (
        "neither_seed3 was made with another configuration, which differs in loss." in other.stderr
    )
    assert other.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "1,x"], "--seeds '1,x' is not integers"),
        (["--seeds", ""], "--seeds '' is not integers"),
        (["--seeds", "-1"], "--seeds '-1' is not integers"),
        (["--seeds", "1,1"], "seeds must be different and at least one, got [1, 1]"),
        (["--set", "epoch=3"], "unknown key 'epoch'"),
        (["--epochs", "0"], "epochs must be positive, got 0"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_bad_argument_is_one_line(
    run: Run, arguments: list[str], tmp_path: Path, options: list[str], message: str
) -> None:
    if options[0] in ("--seeds", "--epochs"):  # which may be given once
        at = arguments.index(options[0])
        del arguments[at : at + 2]
    outcome = run("ablate", *arguments, *options)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_left_out_evaluated_whole_and_not_repeated(
    run: Run, two_datasets: tuple[Path, Path], tmp_path: Path
) -> None:
    root, config = two_datasets
    out = tmp_path / "out"
    arguments = ("ablate", "--data", root, "--config", config, "--out", out)
    outcome = run(*arguments, "--leave-out", "all")
    assert outcome.exit_code == 0, outcome.stderr
    done = [line for line in outcome.stdout.splitlines() if line.startswith("done: ")]
    assert done == ["done: busi, seed 0", "done: discs, seed 0"]
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    lesions = {(row["dataset"], row["prompt"]): row["lesions"] for row in document["rows"]}
    assert lesions == {  # all that a dataset has, in whatever subset
        **dict.fromkeys((("busi", "box_5%"), ("busi", "centre_point")), 6),
        **dict.fromkeys((("discs", "box_5%"), ("discs", "centre_point")), 6),
    }
    for name, other in (("busi", "discs"), ("discs", "busi")):
        settings = json.loads((out / f"without_{name}" / "config.json").read_text())
        assert [each["folder"] for each in settings["datasets"]] == [other]
    results = (out / "results.json").read_bytes()
    again = run(*arguments, "--leave-out", "all")
    assert again.exit_code == 0 and again.stderr == ""  # no epoch
    assert (out / "results.json").read_bytes() == results
    refused = run(*arguments, "--leave-out", "liver")
    assert refused.exit_code == 2 and "got liver of busi, discs" in refused.stderr
