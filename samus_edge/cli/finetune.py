"""`samus-edge finetune`: a folder of images and masks in, a verified bundle and a report out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import output_console, progress_bar
from samus_edge.cli.options import (
    DataFolder,
    RequireSignature,
    SplitFile,
    check_signed_start,
    command_line,
)
from samus_edge.cli.train import (
    BatchSize,
    Settings,
    StartCheckpoint,
    TrainingDevice,
    TrainingDisplay,
    read_settings,
)

if TYPE_CHECKING:
    from samus_edge.training.finetuning import Comparison

MIN_MINUTES = 0.01
FRACTIONS, TEST_NAMED = (0.6, 0.2, 0.2), (0.8, 0.2, 0.0)


def command(
    context: typer.Context,
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder of the bundle, the report and the training; what is done there is not "
            "done again.",
            file_okay=False,
        ),
    ],
    minutes: Annotated[
        float,
        typer.Option(metavar="N", help="Time for all of it, on this machine.", min=MIN_MINUTES),
    ] = 10.0,
    start: StartCheckpoint = None,
    require_signature: RequireSignature = None,
    split: SplitFile = None,
    test: Annotated[
        str,
        typer.Option(
            metavar="REGEX",
            help="Hold out the cases in whose key this is found, not a fifth of all. For further "
            "rules: samus-edge data split, and --split.",
        ),
    ] = "",
    batch_size: BatchSize = None,
    device: TrainingDevice = None,
    set_: Settings = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Name of the bundle.", show_default="finetuned- and the data's"
        ),
    ] = None,
    credit: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Whose data it is, for the manifest. Repeat for more."),
    ] = None,
) -> None:
    """Train the default bundle on with your images, and say what that brought.

    Splits the images (near-duplicates stay together), trains with a rate that falls with the time,
    keeps the best weights by the images that were set aside for that, the start among them, exports
    a bundle, verifies it, and compares it with the start on images that nothing was chosen by.

    Ctrl-C and crashes lose nothing: the same command goes on. Writes DIR/bundle, report.html,
    report.json, splits/ and training/.

    Exit codes: 0 done; 1 failed; 2 an argument is wrong; 130 interrupted, and saved.
    """
    if split is not None and test:
        raise typer.BadParameter("names the subsets, so nothing else can.", param_hint="--split")

    from samus_edge.data.collection import DatasetConfig
    from samus_edge.reporting.figure import require_matplotlib
    from samus_edge.training.finetuning import (
        TRAINING_FOLDER,
        Finetuned,
        fitted_config,
        split_cases,
        training_limits,
    )
    from samus_edge.training.learner import training_processes
    from samus_edge.training.trainer import run_training, stop_on_signal
    from samus_edge.training.training_run import prepare_training

    require_matplotlib()
    settings = read_settings(Path("finetune"), set_, batch_size=batch_size, device=device)
    check_signed_start(require_signature, start or settings.start)
    folder = data.resolve()
    if split is not None:
        rule = DatasetConfig(folder.name, split=str(split.resolve()))
    else:
        rule = DatasetConfig(folder.name, test=test, fractions=TEST_NAMED if test else FRACTIONS)
    subsets = split_cases(folder, rule, out)
    settings = fitted_config(settings, rule, subsets, start)
    display = TrainingDisplay()
    with training_processes(settings.device) as processes, stop_on_signal() as stop:
        if processes.count > 1:
            raise typer.BadParameter(
                f"finetune runs on one process, not on {processes.count}: start it without "
                "torchrun."
            )
        with display.bars:
            trainer, cases, _ = prepare_training(
                settings,
                subsets,
                out / TRAINING_FOLDER,
                start=start,
                processes=processes,
                limits=training_limits(minutes),
                progress=display.stage,
            )
            typer.echo(
                f"images with lesions: train {len(cases.train_cases)}, val {len(cases.val_cases)}, "
                f"test {len(subsets.test)}; training for {trainer.limits.minutes:g} minutes"
            )
            display.start(trainer)
            best = run_training(trainer, display.epoch, display.step, stop.is_set)
    done = Finetuned(out, best, trainer, start, subsets)
    with progress_bar("exporting") as bar:
        done.export(
            name or f"finetuned-{folder.name}",
            credit or (),
            command=command_line(context, places=False),
            report=bar.update,
        )
        bar.update("comparing with the start", total=2 * len(done.judged))
        comparison = done.compare(lambda case: bar.update(advance=1))
    _print(comparison)
    typer.echo(f"bundle: {done.bundle}, report: {out / 'report.html'}")


def _print(comparison: "Comparison") -> None:
    from rich import box
    from rich.table import Table

    caption = f"mean Dice on the {comparison.subset} images, 95 % interval of the change"
    if comparison.subset == "val":
        caption += "; the result was chosen by them, so it looks too good"
    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    table.add_column("prompt")
    for column in ("lesions", "start", "result", "change", "95 % interval"):
        table.add_column(column, justify="right")
    for prompt, dice in comparison.dice.items():
        low, high = dice.interval
        table.add_row(
            prompt,
            str(dice.lesions),
            f"{dice.mean_first:.4f}",
            f"{dice.mean_second:.4f}",
            f"{dice.mean_difference:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
        )
    output_console().print(table)
