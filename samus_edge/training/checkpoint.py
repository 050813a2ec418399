"""Resumable training state on disk, written atomically."""

import contextlib
import csv
import dataclasses
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from samus_edge.errors import OutputFileError, WeightsError, missing_extra
from samus_edge.reporting.figure import new_figure, png_bytes
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.training.config import OPERATIONAL_SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class EpochRecord:
    """One row of the history.

    Attributes:
        epoch: epochs done.
        train_loss: mean loss of the epoch's steps.
        val_loss: loss of the averaged weights on the validation cases, mean over the prompts that
            the training uses.
        val_dice_box: mean Dice at 256x256 with a jittered box, in [0, 1]; None if boxes are not
            trained.
        val_dice_point: mean Dice at 256x256 with the centre point, in [0, 1]; None if clicks are
            not trained.
        learning_rate: rate of the encoder in the last step.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_dice_box: float | None
    val_dice_point: float | None
    learning_rate: float


def history_csv(records: Sequence[EpochRecord]) -> str:
    """The records as CSV: a header with the fields of `EpochRecord`, one line for each epoch.

    What is None is left empty. Numbers come back to the bit.
    """
    text = io.StringIO(newline="")
    names = [field.name for field in dataclasses.fields(EpochRecord)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(record) for record in records)
    return text.getvalue()


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
    best = min(records, key=lambda record: record.val_loss)
    loss.plot(best.epoch, best.val_loss, "o", color="black", label=f"best, epoch {best.epoch}")
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
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


@dataclass
class TrainingState:
    """Everything that a training needs to go on.

    Attributes:
        learner: model, averaged model, optimiser and their steps: `Learner.state_dict`.
        epoch: whole epochs done.
        epoch_losses: loss of each step of the epoch that is under way.
        best_loss: smallest validation loss so far.
        history: the fields of each `EpochRecord`.
        config: the training configuration as plain values.
        data: tells the cases from others: `TrainingData.fingerprint`.
        processes: how many processes share each batch.
    """

    learner: dict[str, Any]
    epoch: int
    epoch_losses: list[float]
    best_loss: float
    history: list[dict[str, Any]]
    config: dict[str, Any]
    data: str
    processes: int


def save_state(
    state: TrainingState, path: Path, *, along: Mapping[Path, bytes] | None = None
) -> None:
    """Write the state; an interruption leaves the previous file whole.

    Args:
        state: the state.
        path: its file.
        along: contents of other files that belong to this state, written only if it can be.

    Raises:
        OutputFileError: if a file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    write_files_atomically({path: buffer.getvalue(), **(along or {})})


def load_state(path: Path) -> TrainingState:
    """Read a state, without executing pickled code.

    Raises:
        WeightsError: if the file is not a training state.
    """
    try:
        return TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as err:  # torch raises half a dozen types for a file that it did not write
        raise WeightsError(
            f"{path} is not a training state of this version ({type(err).__name__}). "
            "Remove it to start afresh."
        ) from err


def check_state(
    state: TrainingState, path: Path, *, config: Mapping[str, Any], data: str, processes: int
) -> None:
    """Refuse the state of another training.

    Settings that change nothing but speed may differ.

    Args:
        state: the state.
        path: its file, for the message.
        config: the configuration to go on with, as plain values.
        data: fingerprint of the cases to go on with.
        processes: how many processes go on.

    Raises:
        WeightsError: naming everything that differs.
    """
    keys = [
        key
        for key in {**config, **state.config}
        if key not in OPERATIONAL_SETTINGS and state.config.get(key) != config.get(key)
    ]
    problems = [f"another configuration, which differs in {', '.join(keys)}"] if keys else []
    if state.data != data:
        problems.append("other cases or another order of them")
    if state.processes != processes:
        problems.append(f"{state.processes} process(es) instead of {processes}")
    if problems:
        raise WeightsError(
            f"{path} was made with {', and with '.join(problems)}. "
            "Use the same to resume, or another folder."
        )


def remove_unfinished_files(folder: Path) -> None:
    """Remove what a killed process had not finished writing; a state may be gigabytes large."""
    for path in folder.glob(".samus-edge-*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
