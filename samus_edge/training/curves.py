"""Curves of a training, as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from samus_edge.training.figure import new_figure, png_bytes
from samus_edge.training.history import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
