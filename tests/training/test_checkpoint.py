"""Training states on disk."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from samus_edge.errors import OutputFileError, WeightsError
from samus_edge.training.checkpoint import TrainingState, load_state, save_state


@pytest.fixture
def state() -> TrainingState:
    """A state of a linear layer after one step."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return TrainingState(
        model=layer.state_dict(),
        ema=layer.state_dict(),
        optimizer=optimizer.state_dict(),
        step=7,
        epoch=3,
        best_loss=float("inf"),
        config={"seed": 1, "augmentation": {"log_gain": 0.5}},
    )


def test_a_state_comes_back(state: TrainingState, tmp_path: Path) -> None:
    path, note = tmp_path / "state.pt", tmp_path / "note.txt"
    save_state(state, path, along={note: b"kept with it"})
    loaded = load_state(path)
    assert (loaded.step, loaded.epoch, loaded.best_loss) == (7, 3, float("inf"))
    assert loaded.config == state.config
    assert torch.equal(loaded.model["weight"], state.model["weight"])
    moments = loaded.optimizer["state"][0]["exp_avg"]
    assert torch.equal(moments, state.optimizer["state"][0]["exp_avg"])
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


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04\x95garbage"])
def test_a_file_that_is_no_state_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"state\.pt is not a training state .* start afresh"):
        load_state(path)


@pytest.mark.parametrize("content", [{"model": {}}, [1], {"surprise": 1}])
def test_another_torch_file_is_named(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"state\.pt is not a training state"):
        load_state(path)


def test_a_truncated_state_is_named(state: TrainingState, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(state, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"state\.pt is not a training state"):
        load_state(path)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_a_malicious_state_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "state.pt", tmp_path / "trace"
    for write in (
        lambda: torch.save({"model": Malicious(trace)}, path),
        lambda: path.write_bytes(pickle.dumps(Malicious(trace))),
    ):
        write()
        with pytest.raises(WeightsError, match=r"state\.pt is not a training state"):
            load_state(path)
    assert not trace.exists()
