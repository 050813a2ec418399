"""The history of a training: as CSV, as curves, and for TensorBoard."""

import csv
import dataclasses
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samus_edge.errors import OutputFileError, missing_extra
from samus_edge.reporting.figure import new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class EpochRecord:
    """One row of the history; scores that were not taken are None.

    Attributes:
        epoch: epochs done.
        train_loss: mean loss of the epoch's steps.
        val_loss: loss of the averaged weights on the validation cases.
        val_dice_box: mean Dice at 256x256 with a jittered box, in [0, 1].
        val_dice_point: mean Dice at 256x256 with the centre point, in [0, 1].
        learning_rate: learning rate of the encoder in the last step.
        datasets: "loss", and Dice with "box" and "point", by validation dataset if there are
            several.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_dice_box: float | None
    val_dice_point: float | None
    learning_rate: float
    datasets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def dataset_columns(self) -> dict[str, float | None]:
        """The scores of each dataset, flat: `ddti/box` and so on."""
        return {
            f"{name}/{what}": value
            for name, of_dataset in self.datasets.items()
            for what, value in of_dataset.items()
        }


def history_csv(records: Sequence[EpochRecord]) -> str:
    """The records as CSV: a header with the fields of `EpochRecord`, one line for each epoch.

    Several datasets have columns of their own. What is None is left empty. Numbers come back to the
    bit.
    """
    text = io.StringIO(newline="")
    rows = [{**vars(record), **record.dataset_columns()} for record in records]
    names = [each.name for each in dataclasses.fields(EpochRecord) if each.name != "datasets"]
    names += dict.fromkeys(name for record in records for name in record.dataset_columns())
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class TensorBoardLog:
    """An event file in a folder, written at once and not by a thread that could fail unseen.

    Args:
        folder: folder of the file and of those of earlier parts of the same training.
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
            raise missing_extra("The log for TensorBoard", "tensorboardX") from err
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


def draw_curves(records: Sequence[EpochRecord]) -> bytes:
    """Draw loss, Dice and learning rate over the epochs.

    Args:
        records: the history, at least one epoch.

    Returns:
        A PNG file.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = new_figure(12.0, 3.6)
    loss, dice, rate = figure.subplots(1, 3)
    _plot(loss, records, {"train_loss": "training", "val_loss": "validation"}, "loss")
    scored = [(each.val_loss, each.epoch) for each in records]
    if scored:
        best, epoch = min(scored)
        loss.plot(epoch, best, "o", color="black", label=f"best, epoch {epoch}")
        loss.legend()
    kinds = {"val_dice_box": "box", "val_dice_point": "centre point"}
    _plot(dice, records, kinds, "Dice on the validation cases")
    _plot(rate, records, {"learning_rate": "encoder"}, "learning rate")
    return png_bytes(figure)


def _plot(axes: "Axes", records: Sequence[EpochRecord], names: dict[str, str], title: str) -> None:
    """One line for each field of the records that has values."""
    from matplotlib.ticker import MaxNLocator

    epochs = [record.epoch for record in records]
    for name, label in names.items():
        values = [getattr(record, name) for record in records]
        if None not in values:
            axes.plot(epochs, values, label=label, marker="." if len(epochs) == 1 else None)
            axes.legend()
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
