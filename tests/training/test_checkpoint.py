"""Training states on disk."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from samus_edge.errors import OutputFileError, WeightsError
from samus_edge.training.checkpoint import (
    TrainingState,
    check_state,
    load_state,
    remove_unfinished_files,
    save_state,
)


@pytest.fixture
def state() -> TrainingState:
    """A state of a linear layer after one step."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return TrainingState(
        learner={"model": layer.state_dict(), "optimizer": optimizer.state_dict()},
        epoch=3,
        epoch_losses=[0.1 + 0.2, 0.5],
        best_loss=float("inf"),
        history=[{"epoch": 1, "val_dice_box": None}],
        config={"seed": 1, "num_workers": 0, "augmentation": {"log_gain": 0.5}},
        data="abc",
        processes=1,
    )


def test_a_state_comes_back(state: TrainingState, tmp_path: Path) -> None:
    path, note = tmp_path / "state.pt", tmp_path / "note.txt"
    save_state(state, path, along={note: b"kept with it"})
    loaded = load_state(path)
    assert (loaded.epoch, loaded.epoch_losses) == (3, [0.1 + 0.2, 0.5])
    assert (loaded.best_loss, loaded.processes, loaded.data) == (float("inf"), 1, "abc")
    assert (loaded.config, loaded.history) == (state.config, state.history)
    assert torch.equal(loaded.learner["model"]["weight"], state.learner["model"]["weight"])
    moments = loaded.learner["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, state.learner["optimizer"]["state"][0]["exp_avg"])
    assert note.read_bytes() == b"kept with it"


def test_a_write_that_fails_leaves_the_previous_files_whole(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, note = tmp_path / "state.pt", tmp_path / "note.txt"
    save_state(state, path, along={note: b"earlier"})
    earlier = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    state.epoch = 4
    with pytest.raises(OutputFileError, match=r"state\.pt cannot be written \(No space left"):
        save_state(state, path, along={note: b"later"})
    assert path.read_bytes() == earlier
    assert note.read_bytes() == b"earlier"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["note.txt", "state.pt"]


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_a_state_of_another_training_is_refused_with_every_difference(
    state: TrainingState, tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    same = {**state.config, "num_workers": 8, "device": "cuda"}  # change speed alone
    check_state(state, path, config=same, data="abc", processes=1)
    config = dict(state.config)
    state.config["distillation"] = {"teacher": "none", "views": 4}  # of 0.1.0, without a teacher
    check_state(state, path, config=config, data="abc", processes=1)
    state.config["distillation"] = {"teacher": "lite_medsam", "views": 4}
    with pytest.raises(WeightsError, match="differs in distillation"):
        check_state(state, path, config=config, data="abc", processes=1)
    del state.config["distillation"]
    other = {**state.config, "seed": 2, "augmentation": {"log_gain": 0.0}, "new": True}
    with pytest.raises(WeightsError) as caught:
        check_state(state, path, config=other, data="xyz", processes=2)
    assert str(caught.value) == (
        f"{path} was made with another configuration, which differs in seed, augmentation, new, "
        "and "
        "with other cases or another order of them, and with 1 process(es) instead of 2. Use the "
        "same to resume, or another folder."
    )


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """The name is that of the atomic writer; `test_resume` kills real writes."""
    (tmp_path / ".samus-edge-0123.tmp").write_bytes(b"half")
    for name in ("state.pt", ".hidden", "note.tmp"):
        (tmp_path / name).write_bytes(b"whole")
    remove_unfinished_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "note.tmp", "state.pt"]


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04\x95garbage", b"truncated"])
def test_a_file_that_is_no_state_is_named(
    state: TrainingState, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    save_state(state, path)
    path.write_bytes(path.read_bytes()[:-100] if content == b"truncated" else content)
    with pytest.raises(WeightsError, match=r"state\.pt is not a training state .* start afresh"):
        load_state(path)


def test_another_or_malicious_torch_file_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "state.pt", tmp_path / "trace"
    contents: list[Any] = [{"model": {}}, [1], {"surprise": 1}, {"model": Malicious(trace)}]
    for content in contents:
        torch.save(content, path)
        with pytest.raises(WeightsError, match=r"state\.pt is not a training state"):
            load_state(path)
    path.write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(WeightsError, match=r"state\.pt is not a training state"):
        load_state(path)
    assert not trace.exists()
