"""Trainings that are killed, interrupted, out of disk or shared by processes; each a real
process."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from samus_edge.training.checkpoint import load_state
from tests.training.small_training import write_bright_cases

KILLED = -9
STATE_BYTES = 300_000
"""Less than a state of the small model, more than its weights."""
SHARED_TOLERANCE = 2e-5
"""Of parameters around 0.1 after three steps: two halves of a batch are summed in another order."""

SETTINGS = [
    *("epochs=2", "batch_size=2", "precision=fp32", "warmup_steps=2", "learning_rate=3.0e-3"),
    *("checkpoint_interval_steps=1", "prompts.refine_probability=0.5", "ema_decay=0.5"),
]
STEPS_PER_EPOCH = 3  # of two of the six training images
ALONE = ["epochs=1", "precision=fp32", "prompts.refine_probability=0", "gradient_clip=0.5"]


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two `.pt` or `.safetensors` files hold the same bits."""
    load: Callable[[Path], dict[str, torch.Tensor]] = (
        load_file if one.suffix == ".safetensors" else torch.load
    )
    left, right = load(one), load(other)
    return left.keys() == right.keys() and all(
        torch.equal(tensor, right[name]) for name, tensor in left.items()
    )


def leftovers(folder: Path) -> list[str]:
    """Files that a write did not finish."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


class Outcome:
    """What every scenario ended with; all run in one go, as most of the time goes into imports."""

    def __init__(self, folder: Path, codes: list[int], stderr: str) -> None:
        self.folder, self.codes, self.stderr = folder, codes, stderr


@pytest.fixture(scope="module")
def outcome(
    run_scenarios: Callable[..., tuple[list[int], str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcome:
    folder: Path = tmp_path_factory.mktemp("scenarios")
    root = folder / "Dataset"
    write_bright_cases(root, lesions=7)

    def scenario(out: str, settings: list[str] = SETTINGS, **ending: Any) -> dict[str, Any]:
        return {"root": str(root), "out": str(folder / out), "settings": settings, **ending}

    codes, stderr = run_scenarios(
        scenario("whole"),
        # in the middle of an epoch; then between the state and its history; then before the best
        # weights of the last epoch get their name
        scenario("killed", kill_at_step=2),
        scenario("killed", kill_at_replace=("history.csv", 3)),
        scenario("killed", kill_at_replace=("best.safetensors", 1)),
        scenario("killed"),
        # the second state is whole, the third, after step 3, does not fit
        scenario("stopped", signal_at_step=(1, "SIGTERM")),
        scenario("stopped", largest_file=STATE_BYTES),
        scenario("stopped", signal_at_step=(4, "SIGINT")),
        scenario("stopped"),
        scenario("full", largest_file=STATE_BYTES),
        scenario("alone", [*ALONE, "batch_size=2"], batch_norm=False),
        scenario("shared", [*ALONE, "batch_size=1"], batch_norm=False, processes=2),
        scenario(
            "accumulated",
            [*ALONE, "batch_size=1", "accumulation_steps=3", "prompts.refine_probability=0.5"],
            processes=2,
        ),
    )
    return Outcome(folder, codes, stderr)


def test_a_training_killed_at_any_moment_resumes_bit_for_bit(outcome: Outcome) -> None:
    assert outcome.codes[:5] == [0, KILLED, KILLED, KILLED, 0], outcome.stderr
    whole, killed = outcome.folder / "whole", outcome.folder / "killed"
    for name in ("rank0.pt", "best.safetensors"):
        assert same_tensors(killed / name, whole / name)
    assert (killed / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    one, other = (load_state(folder / "state.pt") for folder in (whole, killed))
    for name in ("model", "ema"):
        for key, tensor in one.learner[name].items():
            assert torch.equal(tensor, other.learner[name][key])
    assert one.history == other.history and len(one.history) == 2
    assert one.learner["steps_done"] == 2 * STEPS_PER_EPOCH
    assert leftovers(killed) == []


def test_signals_and_a_full_disk_save_the_state_and_say_so_in_one_line(outcome: Outcome) -> None:
    assert outcome.codes[5:9] == [130, 1, 130, 0], outcome.stderr
    folder = outcome.folder / "stopped"
    lines = [line for line in outcome.stderr.splitlines() if str(folder) in line]
    go_on = f"{folder} holds the state; run the same command again to go on."
    advice = "Give a file in an existing, writable folder with enough free space."
    assert lines == [
        f"training interrupted after step 2 of 6. {go_on}",
        f"{folder}/state.pt cannot be written (File too large). {advice}",
        f"training interrupted after step 5 of 6. {go_on}",
    ]
    for name in ("rank0.pt", "best.safetensors"):
        assert same_tensors(folder / name, outcome.folder / "whole" / name)
    whole = outcome.folder / "whole" / "history.csv"
    assert (folder / "history.csv").read_bytes() == whole.read_bytes()


def test_a_disk_that_is_full_from_the_start_leaves_nothing_half_written(outcome: Outcome) -> None:
    assert outcome.codes[9] == 1
    names = sorted(path.name for path in (outcome.folder / "full").iterdir())
    assert names == ["config.json"]


def test_two_processes_learn_what_one_learns_from_twice_the_batch(outcome: Outcome) -> None:
    assert outcome.codes[10:12] == [0, 0], outcome.stderr
    alone, shared = outcome.folder / "alone", outcome.folder / "shared"
    assert same_tensors(shared / "rank0.pt", shared / "rank1.pt")
    expected, found = torch.load(alone / "rank0.pt"), torch.load(shared / "rank0.pt")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=SHARED_TOLERANCE)
    losses = []
    for folder in (alone, shared):
        with (folder / "history.csv").open(newline="") as file:
            losses.append([float(row["train_loss"]) for row in csv.DictReader(file)])
    assert losses[1] == pytest.approx(losses[0], abs=SHARED_TOLERANCE)
    assert load_state(shared / "state.pt").processes == 2


def test_processes_that_accumulate_and_refine_stay_together(outcome: Outcome) -> None:
    """With batch normalisation, whose running statistics are the first process's."""
    assert outcome.codes[12] == 0, outcome.stderr
    folder = outcome.folder / "accumulated"
    one, other = torch.load(folder / "rank0.pt"), torch.load(folder / "rank1.pt")
    for name, tensor in one.items():
        if "running" not in name:
            assert torch.equal(tensor, other[name]), name
    assert load_state(folder / "state.pt").learner["steps_done"] == 1
