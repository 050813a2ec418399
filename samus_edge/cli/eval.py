"""`samus-edge eval`: Dice, IoU and Hausdorff distances of a bundle or of weights on a test set."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samus_edge.cli.dataset_options import DataFolder, SplitFile

if TYPE_CHECKING:
    from rich.table import Table

    from samus_edge.data.busi import UltrasoundCase
    from samus_edge.evaluation.evaluate import Predictor
    from samus_edge.evaluation.prompt_protocol import PromptProtocol
    from samus_edge.evaluation.report import EvaluationReport

__all__ = ["Subset", "command"]

PIPE_WIDTH = 140
"""Columns of the printed table where there is no terminal whose width could be asked."""


class Subset(str, Enum):
    """Subsets of a split file."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


def command(
    data: DataFolder,
    split: SplitFile,
    subset: Annotated[Subset, typer.Option(help="Subset to evaluate.")] = Subset.TEST,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle folder; the default bundle if left out.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights (.safetensors) to evaluate with torch instead of a bundle.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    box_sweep: Annotated[
        bool, typer.Option("--box-sweep", help="Also boxes with 0, 10, 15 and 20 % jitter.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the summaries to this JSON file.", dir_okay=False)
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write one row per lesion and prompt.", dir_okay=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of prompts and intervals.")] = 0,
    record: Annotated[
        bool, typer.Option("--record", help="Write the result into the bundle's manifest.")
    ] = False,
) -> None:
    """Segment every lesion of a subset from simulated prompts and report how well.

    Each lesion is prompted with its box, edges moved by up to 5 %, and with its centre point. Dice
    and IoU are measured at the image's own size, Hausdorff distances (pixels) at 256x256.
    """
    if bundle is not None and weights is not None:
        raise typer.BadParameter(
            f"both --bundle {bundle} and --weights {weights} are given; give one of them."
        )
    if record and weights is not None:
        raise typer.BadParameter("goes with a bundle, not with --weights.", param_hint="--record")
    if seed < 0:
        raise typer.BadParameter(f"must be at least 0, got {seed}.", param_hint="--seed")
    for name, path in (("--out", out), ("--csv", csv)):
        if path is not None and not path.absolute().parent.is_dir():
            raise typer.BadParameter(
                f"the folder of {path} does not exist; create it first.", param_hint=name
            )

    from samus_edge.data.busi import list_cases, load_groups, load_split, select_lesions

    keys = load_split(split)[subset.value]
    cases = select_lesions(list_cases(data, keys))
    about = {"data": data.resolve().name, "split": split.name, "subset": subset.value}
    protocols, groups = _protocols(box_sweep), load_groups(split)
    report = _evaluate(cases, bundle, weights, protocols, groups, about, seed)
    report.write(json_path=out, csv_path=csv)
    if record:
        from samus_edge.evaluation.bundle_accuracy import record_accuracy
        from samus_edge.runtime.bundle import Bundle

        record_accuracy(Bundle.open(bundle), report)
    _print_summaries(report)


def _evaluate(
    cases: "list[UltrasoundCase]",
    bundle: Path | None,
    weights: Path | None,
    protocols: "list[PromptProtocol]",
    groups: dict[str, int],
    about: dict[str, str],
    seed: int,
) -> "EvaluationReport":
    """Load what is to be evaluated, and evaluate it with a progress bar on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import Progress

    from samus_edge.evaluation.evaluate import evaluate
    from samus_edge.runtime.file_hash import sha256_of_file

    def run(predictor: "Predictor[Any]") -> "EvaluationReport":
        console = Console(stderr=True)
        # Where there is no terminal, even a disappearing bar would leave an empty line.
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("Evaluating", total=len(cases))
            return evaluate(
                predictor,
                cases,
                protocols=protocols,
                seed=seed,
                groups=groups,
                about=about,
                on_case=lambda case: progress.advance(task),
            )

    if weights is not None:
        from samus_edge.evaluation.torch_predictor import TorchPredictor

        about |= {"weights": weights.name, "weights_sha256": sha256_of_file(weights)}
        return run(TorchPredictor.load(weights))

    from samus_edge.runtime import Segmenter

    with Segmenter.load(bundle) as segmenter:
        manifest = segmenter.bundle.manifest
        about |= {
            "bundle": manifest.name,
            "backend": f"{segmenter.backend.name} {segmenter.backend.version}",
            "precision": segmenter.precision,
            **{f"{name}_sha256": graph.sha256 for name, graph in manifest.graphs.items()},
        }
        return run(segmenter)


def _protocols(box_sweep: bool) -> "list[PromptProtocol]":
    from samus_edge.evaluation import prompt_protocol

    extra = prompt_protocol.box_sweep() if box_sweep else ()
    return list(dict.fromkeys((*prompt_protocol.STANDARD_PROTOCOLS, *extra)))


def _print_summaries(report: "EvaluationReport") -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(summary_table(report))
    worst = min(report.scores, key=lambda score: score.dice)
    console.print(
        f"Worst: {worst.key}, lesion {worst.instance}, {worst.prompt}: Dice {worst.dice:.4f}",
        markup=False,
        highlight=False,
    )


def summary_table(report: "EvaluationReport") -> "Table":
    """The summaries as a table: mean metrics per prompt and class, with the interval of Dice."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption="HD: Hausdorff distance, pixels at 256x256; means")
    table.add_column("prompt")
    table.add_column("class")
    for name in ("lesions", "Dice", "95 % interval", "median", "worst", "IoU"):
        table.add_column(name, justify="right")
    for name in ("HD", "HD Manhattan", "HD95", "HD rows (SAMUS)"):
        table.add_column(name, justify="right")
    for summary in report.summaries:
        low, high = summary.dice_interval
        distances = (summary.hd, summary.hd_manhattan, summary.hd95, summary.hd_rows)
        table.add_row(
            summary.prompt,
            summary.class_name,
            str(summary.lesions),
            f"{summary.dice.mean:.4f}",
            f"{low:.4f}-{high:.4f}",
            f"{summary.dice.median:.4f}",
            f"{summary.dice.worst:.4f}",
            f"{summary.iou.mean:.4f}",
            *(f"{distance.mean:.2f}" for distance in distances),
        )
    return table
