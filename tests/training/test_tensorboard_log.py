"""The log for TensorBoard, read back record by record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samus_edge.errors import OutputFileError
from samus_edge.training.tensorboard_log import TensorBoardLog


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
