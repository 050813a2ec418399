"""The log for TensorBoard, read back record by record."""

import struct
from pathlib import Path
from typing import Any

import pytest

from samus_edge.errors import OutputFileError
from samus_edge.training.tensorboard_log import TensorBoardLog

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")


def events(folder: Path) -> list[Any]:
    """The events of every file, in order; a record is a length, a checksum, data, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            found.append(Event.FromString(content[position + 12 : position + 12 + length]))
            position += 12 + length + 4
    return found


def test_scalars_are_there_at_once_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path / "log", 40)
    log.add(41, {"loss": 0.5, "dice": None})
    found = events(tmp_path / "log")  # not closed yet
    log.close()
    assert [event.step for event in found] == [0, 40, 41]
    assert found[1].session_log.status == 1  # START: later steps of earlier files are dropped
    assert [(value.tag, value.simple_value) for value in found[2].summary.value] == [("loss", 0.5)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFileError, match=r"file/log cannot be written"):
        TensorBoardLog(tmp_path / "file" / "log", 0)
