"""The history of a training: its numbers, its curves, and what TensorBoard reads."""

import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samus_edge.errors import OutputFileError
from samus_edge.training.history import EpochRecord, TensorBoardLog, draw_curves, history_csv


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
    program = (
        "import sys\n"
        "from samus_edge.training.history import draw_curves\n"
        "from samus_edge.training.history import EpochRecord\n"
        "draw_curves([EpochRecord(1, 1.0, 1.0, 0.5, None, 1e-3)])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
