"""`samus-edge ablate`: the report's Table 1, from training to comparison."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import output_console
from samus_edge.cli.options import (
    DataFolder,
    RequireSignature,
    SplitFile,
    check_signed_start,
    parse_seeds,
)
from samus_edge.cli.train import (
    SPLITS_FOLDER,
    ConfigFile,
    Epochs,
    Settings,
    StartCheckpoint,
    TrainingDisplay,
    load_several,
    read_settings,
)

if TYPE_CHECKING:
    from samus_edge.training.ablation import (
        AblationResults,
        AblationRun,
        LeftOutRow,
        SeedSpread,
    )


def command(
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder of the runs and results; what is done there is not done again.",
            file_okay=False,
        ),
    ],
    split: SplitFile = None,
    config: ConfigFile = None,
    start: StartCheckpoint = None,
    require_signature: RequireSignature = None,
    epochs: Epochs = None,
    set_: Settings = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DATASET|all",
            help="Instead: train on all datasets of the configuration but this one, and evaluate "
            "on all of this one. Repeat for more runs.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N,N,...", help="Seeds that each variant is trained with.")
    ] = "0,1,2",
) -> None:
    """Train without HF and gate, with each of them, and with both; evaluate on the test subset.

    Everything but HF, gate and seed is the same for all. The table has means and standard
    deviations over seeds; a paired test compares each variant with neither, on the same lesions.

    With --leave-out, each run trains without one of the configuration's datasets, and the table
    says how well that one is segmented by a network that has never seen it.

    Ctrl-C and crashes lose nothing: the same command goes on. Writes results.json, ablation.png and
    one folder for each run.

    Exit codes: 0 done; 1 failed; 2 an argument is wrong; 130 interrupted, and saved.
    """
    numbers = parse_seeds(seeds)

    from samus_edge.data.dataset import load_subsets
    from samus_edge.reporting.figure import require_matplotlib
    from samus_edge.runtime.images.output_files import write_files_atomically
    from samus_edge.training.ablation import (
        ablation_runs,
        collect_results,
        draw_ablation,
        leave_out_runs,
        left_out_rows,
        left_out_subsets,
        run_ablation,
    )
    from samus_edge.training.config import config_document
    from samus_edge.training.learner import training_processes
    from samus_edge.training.trainer import run_training, stop_on_signal
    from samus_edge.training.training_run import prepare_training

    settings = read_settings(config, set_, epochs=epochs)
    require_matplotlib()
    check_signed_start(require_signature, start or settings.start)
    if leave_out:
        found = load_several(data, split, settings, out / SPLITS_FOLDER)
        names = list(found) if leave_out == ["all"] else leave_out
        runs = leave_out_runs(settings, out, names)
        cases = {run.folder: left_out_subsets(found, run.variant) for run in runs}
    else:
        runs = ablation_runs(settings, out, numbers)
        cases = dict.fromkeys((run.folder for run in runs), load_subsets(data, split))
    display = TrainingDisplay()
    with training_processes(settings.device) as processes, stop_on_signal() as stop:
        if processes.count > 1:
            raise typer.BadParameter(
                f"ablate runs on one process, not on {processes.count}: start it without torchrun."
            )

        def train(run: "AblationRun") -> Path:
            trainer, *_ = prepare_training(
                run.config,
                cases[run.folder],
                run.folder,
                start=start,
                processes=processes,
                progress=display.stage,
            )
            display.start(trainer, run.name)
            return run_training(trainer, display.epoch, display.step, stop.is_set)

        with display.bars:
            for run in runs:
                run_ablation(
                    [run], cases[run.folder], train, lambda run: typer.echo(f"done: {run.name}")
                )
    if leave_out:
        _report_left_out(left_out_rows(runs), out / "results.json")
        return
    results = collect_results(runs)
    about = {
        "data": data.resolve().name,
        "split": "the dataset's own" if split is None else split.name,
        "config": config_document(settings),
    }
    write_files_atomically(
        {
            out / "results.json": results.to_json(about).encode(),
            out / "ablation.png": draw_ablation(results),
        }
    )
    _print_results(results)
    typer.echo(f"results: {out / 'results.json'}, chart: {out / 'ablation.png'}")


def _report_left_out(rows: "list[LeftOutRow]", path: Path) -> None:
    import dataclasses
    import json

    from rich import box
    from rich.table import Table

    from samus_edge.runtime.images.output_files import write_files_atomically

    document = {
        "format": "samus-edge-leave-one-out",
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    write_files_atomically({path: f"{json.dumps(document, indent=2)}\n".encode()})
    table = Table(box=box.SIMPLE_HEAD, caption="mean Dice on a dataset that was not trained on")
    for name in ("dataset", "prompt"):
        table.add_column(name)
    for name in ("lesions", "Dice", "95 % interval"):
        table.add_column(name, justify="right")
    for row in rows:
        low, high = row.dice_interval
        interval = f"{low:.4f}-{high:.4f}"
        table.add_row(row.dataset, row.prompt, str(row.lesions), f"{row.dice:.4f}", interval)
    output_console().print(table)
    typer.echo(f"results: {path}")


def _print_results(results: "AblationResults") -> None:
    from rich import box
    from rich.table import Table

    console = output_console(120)
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"mean and standard deviation over {len(results.seeds)} seed(s); "
        "HD: Hausdorff distance, pixels at 256x256",
    )
    for name in ("prompt", "variant"):
        table.add_column(name)
    for name in ("Dice", "HD", "HD rows (SAMUS)"):
        table.add_column(name, justify="right")
    for row in results.rows:
        table.add_row(
            row.prompt,
            row.variant,
            _spread(row.metrics["dice"], 4),
            _spread(row.metrics["hd"], 2),
            _spread(row.metrics["hd_rows"], 2),
        )
    console.print(table)
    comparisons = Table(box=box.SIMPLE_HEAD, caption="paired, seeds averaged lesion by lesion")
    for name in ("prompt", "metric", "comparison"):
        comparisons.add_column(name)
    for name in ("difference", "95 % interval", "p"):
        comparisons.add_column(name, justify="right")
    for comparison in results.comparisons:
        result, digits = comparison.result, 4 if comparison.metric == "dice" else 2
        low, high = result.interval
        comparisons.add_row(
            comparison.prompt,
            {"dice": "Dice", "hd": "HD"}[comparison.metric],
            f"{result.second} - {result.first}",
            f"{result.mean_difference:+.{digits}f}",
            f"{low:+.{digits}f} to {high:+.{digits}f}",
            f"{result.p_value:.4f}",
        )
    console.print(comparisons)


def _spread(spread: "SeedSpread", digits: int) -> str:
    """ "mean +- standard deviation", or the mean alone with one seed."""
    std = "" if spread.std is None else f" ± {spread.std:.{digits}f}"
    return f"{spread.mean:.{digits}f}{std}"
