"""Scalars of a training for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samus_edge.errors import MissingExtraError, OutputFileError


class TensorBoardLog:
    """An event file in a folder, written at once and not by a thread that could fail unseen.

    Args:
        folder: where the file goes, beside those of earlier parts of the same training.
        step: steps done; what an earlier part has logged after it is shown no more.

    Raises:
        MissingExtraError: if tensorboardX is not installed.
        OutputFileError: if the file cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
        except ImportError as err:
            raise MissingExtraError(
                "The log for TensorBoard needs 'tensorboardX', which is not installed. "
                "Install it with: pip install 'samus-edge[train]'"
            ) from err
        self._event, self._summary = Event, Summary
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
        except OSError as err:
            raise self._error(err) from err
        self._write(step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Log scalars by name, those that are None left out.

        Raises:
            OutputFileError: if they cannot be written.
        """
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
            if value is not None
        ]
        self._write(step, summary=self._summary(value=values))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        try:
            self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))
            self._writer.flush()
        except OSError as err:
            raise self._error(err) from err

    def _error(self, err: OSError) -> OutputFileError:
        return OutputFileError(
            f"{self.folder} cannot be written ({err.strerror or err}). "
            "Give a writable folder with enough free space."
        )
