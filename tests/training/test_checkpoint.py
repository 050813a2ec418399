"""Training states on disk."""

import csv
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from samus_edge.errors import OutputFileError, WeightsError
from samus_edge.training.checkpoint import (
    EpochRecord,
    TensorBoardLog,
    TrainingState,
    check_state,
    draw_curves,
    history_csv,
    load_state,
    remove_unfinished_files,
    save_state,
)


def test_numbers_come_back_to_the_bit_and_what_was_not_scored_is_empty() -> None:
    records = [
        EpochRecord(1, 1 / 3, 2.5, 0.1 + 0.2, None, 3e-4),
        EpochRecord(2, 1e-17, float("inf"), 0.5, 0.25, 0.0),
    ]
    text = history_csv(records)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == [
        *("epoch", "train_loss", "val_loss", "val_dice_box", "val_dice_point", "learning_rate")
    ]
    assert (float(rows[0]["train_loss"]), float(rows[0]["val_dice_box"])) == (1 / 3, 0.1 + 0.2)
    assert rows[0]["val_dice_point"] == ""
    assert float(rows[1]["val_loss"]) == float("inf")
    assert text.count("\n") == 3 and "\r" not in text


def test_an_empty_history_is_its_header() -> None:
    assert history_csv([]).startswith("epoch,") and history_csv([]).count("\n") == 1


def test_scalars_are_there_at_once_and_what_is_none_is_left_out(
    tensorboard_events: Callable[[Path], list[Any]], tmp_path: Path
) -> None:
    log = TensorBoardLog(tmp_path / "log", 40)
    log.add(41, {"loss": 0.5, "dice": None})
    found = tensorboard_events(tmp_path / "log")  # not closed yet
    log.close()
    assert [event.step for event in found] == [0, 40, 41]
    assert found[1].session_log.status == 1  # START: later steps of earlier files are dropped
    assert [(value.tag, value.simple_value) for value in found[2].summary.value] == [("loss", 0.5)]


@pytest.mark.usefixtures("tensorboard_events")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFileError, match=r"file/log cannot be written"):
        TensorBoardLog(tmp_path / "file" / "log", 0)


def pixels(png: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.uint8)


def record(epoch: int, loss: float, box: float | None = 0.9) -> EpochRecord:
    return EpochRecord(epoch, loss, loss + 0.1, box, 0.8, 1e-4 / epoch)


def test_curves_are_a_picture_of_the_history() -> None:
    short = pixels(draw_curves([record(1, 1.0)]))
    long = pixels(draw_curves([record(epoch, 1.0 / epoch) for epoch in range(1, 9)]))
    assert short.shape == long.shape and short.shape[1] > 2 * short.shape[0]
    assert (short != long).any()
    coloured = np.ptp(long.astype(int), axis=2) > 60
    thirds = np.array_split(coloured, 3, axis=1)
    assert all(third.sum() > 200 for third in thirds)  # a curve in each panel


def test_a_kind_of_prompt_that_was_not_scored_has_no_curve() -> None:
    with_box = pixels(draw_curves([record(epoch, 1.0 / epoch) for epoch in range(1, 4)]))
    without = pixels(draw_curves([record(epoch, 1.0 / epoch, None) for epoch in range(1, 4)]))
    assert (with_box != without).any()


def test_nothing_of_matplotlib_is_left_behind() -> None:
    """pyplot keeps its figures for good; a training draws one each epoch."""
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from samus_edge.training.checkpoint import draw_curves\n"
        "from samus_edge.training.checkpoint import EpochRecord\n"
        "draw_curves([EpochRecord(1, 1.0, 1.0, 0.5, None, 1e-3)])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


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


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04\x95garbage"])
def test_a_file_that_is_no_state_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"state\.pt is not a training state of this version .* start afresh"
    ):
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


def test_a_state_of_another_training_is_refused_with_every_difference(
    state: TrainingState, tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    same = {**state.config, "num_workers": 8, "device": "cuda"}  # change speed alone
    check_state(state, path, config=same, data="abc", processes=1)
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
