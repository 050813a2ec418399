"""The history of a training: one row for each epoch, kept as CSV."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass


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
        val_dice_point: mean Dice at 256x256 with the centre point, in [0, 1]; None if clicks are not
            trained.
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
