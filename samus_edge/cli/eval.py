"""`samus-edge eval`: how well a bundle, or weights, segment a test set."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samus_edge.cli.console import output_console, progress_bar
from samus_edge.cli.options import (
    BackendName,
    BundlePath,
    DataFolder,
    PrecisionName,
    RequireSignature,
    SplitFile,
    SplitsFolder,
    check_outputs,
    command_line,
    open_signed,
    refuse_record,
    versions_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from samus_edge.data.case import UltrasoundCase
    from samus_edge.data.dataset import Subsets
    from samus_edge.evaluation.evaluate import EvaluationReport
    from samus_edge.evaluation.predictor import Predictor
    from samus_edge.runtime.bundle.bundle import Bundle

HTML_NAME = "report.html"


class Subset(str, Enum):
    """Subsets of a split file."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


def command(
    context: typer.Context,
    data: DataFolder,
    split: SplitFile = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Training configuration that lists datasets: each is evaluated on its own, and "
            "--data is the folder of all of them.",
        ),
    ] = None,
    splits: SplitsFolder = None,
    subset: Annotated[Subset, typer.Option(help="Subset to evaluate.")] = Subset.TEST,
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights (.safetensors) to evaluate with torch instead of a bundle.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    box_sweep: Annotated[
        bool, typer.Option("--box-sweep", help="Also boxes with 0, 10, 15 and 20 % jitter.")
    ] = False,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness",
            help="Also worse prompts (jittered, loose and tight boxes, points off centre) and "
            "worse "
            "images (gain, gamma, speckle, noise, stored smaller, frame sizes); encodes each image "
            "24 times.",
        ),
    ] = False,
    normals: Annotated[
        bool, typer.Option(help="Also what prompts on images without a lesion give.")
    ] = True,
    worst: Annotated[
        int, typer.Option(metavar="N", help="How many of the worst lesions to show.")
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the tables to this JSON file.", dir_okay=False),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one row per lesion and prompt.", dir_okay=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Write a report with plots and pictures; into a folder: {HTML_NAME}.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of prompts and intervals.")] = 0,
    record: Annotated[
        bool, typer.Option("--record", help="Write the result into the bundle's manifest.")
    ] = False,
) -> None:
    """Segment every lesion of a subset from simulated prompts and report how well.

    Each lesion is prompted with its box, edges moved by up to 5 %, and with its centre point. Dice
    and IoU are measured at the image's own size, distances (pixels) at 256x256. With --config, each
    dataset of a configuration has a table of its own, and the last one has the means of all.
    """
    if bundle is not None and weights is not None:
        raise typer.BadParameter(
            f"both --bundle {bundle} and --weights {weights} are given; give one of them."
        )
    if record and weights is not None:
        raise typer.BadParameter("goes with a bundle, not with --weights.", param_hint="--record")
    if require_signature is not None and weights is not None:
        raise typer.BadParameter(
            "goes with a bundle, not with --weights.", param_hint="--require-signature"
        )
    refuse_record(record, require_signature)
    for name, number in (("--seed", seed), ("--worst", worst)):
        if number < 0:
            raise typer.BadParameter(f"must be at least 0, got {number}.", param_hint=name)
    if html is not None and html.is_dir():
        html = html / HTML_NAME
    check_outputs({"--out": out, "--csv": csv, "--html": html})
    if config is not None:
        one_only = {"--split": split, "--csv": csv, "--html": html, "--record": record}
        for option, given in one_only.items():
            if given:
                raise typer.BadParameter("goes with one dataset, not --config.", param_hint=option)
    elif splits is not None:
        raise typer.BadParameter("goes with --config.", param_hint="--splits")
    for option, value in (("--precision", precision), ("--backend", backend)):
        if value != "auto" and weights is not None:
            raise typer.BadParameter("goes with a bundle, not weights.", param_hint=option)
    if precision != "auto" and record:
        raise typer.BadParameter(
            "records the bundle's reference; for another precision: samus-edge verify",
            param_hint="--record",
        )

    from samus_edge.data import prompt_protocol
    from samus_edge.runtime.bundle.bundle import Bundle

    if record:
        _ = Bundle.open(bundle).folder  # a zip file is refused now, not after the evaluation
    if html is not None:
        from samus_edge.reporting.figure import require_matplotlib

        require_matplotlib()
    source = open_signed(bundle, require_signature)
    extra = prompt_protocol.box_sweep() if box_sweep else ()
    options: dict[str, Any] = {
        "protocols": tuple(dict.fromkeys((*prompt_protocol.STANDARD_PROTOCOLS, *extra))),
        "robustness": robustness,
        "normals": normals,
        "worst_count": None if html is None else worst,
        "seed": seed,
    }

    def evaluate(subsets: "Subsets", dataset: str, split_name: str) -> "EvaluationReport":
        about = {"data": dataset, "split": split_name, "subset": subset.value}
        options.update(groups=subsets.groups, about=about)
        cases = subsets.get(subset.value)
        return _evaluate(cases, (source, backend, precision), weights, options)

    if config is not None:
        _evaluate_several(data, config, splits, subset.value, evaluate, out)
        return

    from samus_edge.data.dataset import load_subsets

    subsets = load_subsets(data, split, names=(subset.value,))
    split_name = "the dataset's own" if split is None else split.name
    report = evaluate(subsets, data.resolve().name, split_name)
    also = {}
    if html is not None:
        from samus_edge.evaluation.html_report import render_evaluation

        versions = versions_line("onnxruntime" if weights is None else "torch")
        details = {"command": command_line(context), "versions": versions}
        also[html] = render_evaluation(report, details).encode()
    report.write(json_path=out, csv_path=csv, also=also)
    if record:
        from samus_edge.evaluation.evaluate import record_accuracy

        record_accuracy(Bundle.open(bundle), report)
    _print_tables(report, worst)


def _evaluate_several(
    root: Path,
    config: Path,
    splits: Path | None,
    subset: str,
    evaluate: "Callable[[Subsets, str, str], EvaluationReport]",
    out: Path | None,
) -> None:
    """Evaluate every dataset of a configuration, and print a table for each and one of all."""
    import json

    from samus_edge.cli import tables
    from samus_edge.data.collection import load_collection
    from samus_edge.runtime.images.output_files import write_files_atomically
    from samus_edge.training.config import find_config, read_config

    datasets = read_config(find_config(config)).datasets
    if not datasets:
        raise typer.BadParameter(f"{config} lists no datasets.", param_hint="--config")
    console = output_console()
    reports = {}
    for name, subsets in load_collection(root, datasets, splits).items():
        if not subsets.get(subset):
            typer.echo(f"{name}: nothing in {subset}")
            continue
        reports[name] = evaluate(subsets, name, "the configuration's")
        console.print(tables.summary_table(reports[name], name))
    console.print(tables.datasets_table(reports))
    if out is not None:
        documents = {name: json.loads(report.to_json()) for name, report in reports.items()}
        text = json.dumps({"format": "samus-edge-evaluations", "datasets": documents}, indent=2)
        write_files_atomically({out: f"{text}\n".encode()})


def _evaluate(
    cases: "list[UltrasoundCase]",
    bundle: "tuple[Path | Bundle | None, str, str]",
    weights: Path | None,
    options: dict[str, Any],
) -> "EvaluationReport":
    """Load what is to be evaluated, and evaluate it with a progress bar on a terminal's stderr.

    A bundle is its path, and the backend and precision to run it in.
    """
    from samus_edge.runtime.images.output_files import sha256_of_file

    if weights is not None:
        from samus_edge.evaluation.torch_predictor import TorchPredictor

        options["about"] |= {"weights": weights.name, "weights_sha256": sha256_of_file(weights)}
        return _run(TorchPredictor.load(weights), cases, options)

    from samus_edge.evaluation.evaluate import about_segmenter
    from samus_edge.runtime import Segmenter

    path, backend, precision = bundle
    with Segmenter.load(path, backend=backend, precision=precision) as segmenter:
        options["about"] |= about_segmenter(segmenter)
        return _run(segmenter, cases, options)


def _run(
    predictor: "Predictor[Any]",
    cases: "list[UltrasoundCase]",
    options: dict[str, Any],
) -> "EvaluationReport":
    from samus_edge.evaluation.evaluate import run_evaluation

    with progress_bar("Evaluating", len(cases)) as bar:
        return run_evaluation(
            predictor,
            cases,
            on_case=lambda case: bar.update(advance=1),
            **options,
        )


def _print_tables(report: "EvaluationReport", worst: int) -> None:
    from samus_edge.cli import tables

    console = output_console()
    console.print(tables.summary_table(report))
    if report.robustness:
        console.print(tables.robustness_table(report))
    if report.normals:
        console.print(tables.normals_table(report))
    if worst:
        console.print(tables.worst_table(report, worst))
