"""How a training shows itself on the command line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

    from samus_edge.training.history import EpochRecord
    from samus_edge.training.stage_progress import StageProgress
    from samus_edge.training.trainer import StepRecord, Trainer

__all__ = ["TrainingDisplay"]


class TrainingDisplay:
    """One line for each epoch on stderr and, on a terminal, a progress bar for each stage.

    Args:
        visible: whether anything is shown at all; several processes show one of them.

    Attributes:
        bars: a context manager; enter it while the training runs.
    """

    def __init__(self, *, visible: bool = True) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True, quiet=not visible)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
            console=console,
            disable=not (visible and console.is_terminal),
        )
        self._label = ""
        self._total_steps = 0
        self._tasks: dict[str, TaskID] = {}

    def start(self, trainer: "Trainer", label: str = "") -> None:
        """Show a training from here on.

        Args:
            trainer: the training.
            label: stands before its bar and its lines.
        """
        self._label = f"{label}: " if label else ""
        self._total_steps = trainer.total_steps
        self._show(f"{self._label}steps", trainer.learner.steps_done, self._total_steps)

    def note(self, line: str) -> None:
        """Print a line."""
        self.bars.console.print(
            f"{self._label}{line}", highlight=False, soft_wrap=True, markup=False
        )

    def stage(self, progress: "StageProgress") -> None:
        """Show how far what comes before the steps is."""
        self._show(f"{self._label}{progress.stage}", progress.done, progress.total)

    def step(self, record: "StepRecord") -> None:
        """Show a step."""
        now = f"loss {record.loss:.4f}, rate {record.learning_rate:.2e}"
        self._show(f"{self._label}steps", record.step, self._total_steps, now)

    def epoch(self, record: "EpochRecord") -> None:
        """Print an epoch."""
        kinds = {"box": record.val_dice_box, "point": record.val_dice_point}
        dices = [f"{kind} {dice:.4f}" for kind, dice in kinds.items() if dice is not None]
        self.note(
            f"epoch {record.epoch}: train loss {record.train_loss:.4f}, "
            f"val loss {record.val_loss:.4f}, val Dice {', '.join(dices)}"
        )

    def _show(self, stage: str, done: int, total: int, now: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self.bars.add_task(stage, total=total, completed=done, now=now)
        self.bars.update(self._tasks[stage], total=total, completed=done, now=now)
