"""`samus-edge calibrate`: fp16 and int8 graphs for a bundle, and how far masks can be trusted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import progress_bar
from samus_edge.cli.options import (
    AllowFailing,
    BundlePath,
    RequireSignature,
    SplitFile,
    SplitsFolder,
    command_line,
)

if TYPE_CHECKING:
    from samus_edge.calibration.bundle_calibration import CalibrationResult
    from samus_edge.verification.frames import FrameSource, PromptedFrame


def command(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the new bundle; with --overwrite that of the old one."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="fp16, int8 (for TensorRT) or int8-cpu (for ONNX Runtime). Repeat for several.",
        ),
    ] = None,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality",
            help="Fit how far masks can be trusted instead, on the validation subset of --data, "
            "and write it into the manifest of --bundle.",
        ),
    ] = False,
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Dataset whose training subset is calibrated on; see `eval`.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    split: SplitFile = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|NAME",
            help="With --quality: a training configuration whose datasets are all fitted on; "
            "--data is the folder of all of them.",
        ),
    ] = None,
    splits: SplitsFolder = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of frames without masks to calibrate on, instead of --data.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "--count",
            metavar="N",
            min=1,
            help="How many frames to draw, by --seed; with --quality, images of each dataset.",
        ),
    ] = 32,
    budget: Annotated[
        float,
        typer.Option(
            metavar="NUMBER",
            help="Dice points that an int8 encoder may lose on the calibration frames.",
        ),
    ] = 0.5,
    chart: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for a chart per int8 precision of what each block suffers.",
            file_okay=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of the draw of frames and prompts.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle.")
    ] = False,
    allow_failing: AllowFailing = False,
) -> None:
    """Add fp16 and int8 graphs to a bundle, or fit how far its masks can be trusted.

    For int8, every block of the image encoder is quantised alone to see what it suffers; then as
    many blocks as the budget allows are, the least sensitive first. What comes out is verified, on
    the validation subset of --data or on the --frames; a bundle that fails is not left behind.

    With --quality, lesions of known truth are segmented from boxes, points and corrective clicks.
    What `infer` then says of a mask (the probability that it is good, intervals of its sizes) is
    fitted on them. Fewer than 50 lesions adapt an earlier calibration.
    """
    if quality:
        if data is None or out is not None or precision or frames is not None:
            raise typer.BadParameter(
                "takes --data and --bundle, and goes without --out, --precision and --frames.",
                param_hint="--quality",
            )
        _fit_quality(bundle, (data, split, config, splits), count, seed)
        return
    if out is None or not precision:
        raise typer.BadParameter("give --out and --precision, or --quality.")
    if config is not None or splits is not None:
        raise typer.BadParameter("goes with --quality.", param_hint="--config")
    if (data is None) == (frames is None):
        raise typer.BadParameter("give either --data or --frames.")
    if split is not None and data is None:
        raise typer.BadParameter("goes with --data.", param_hint="--split")

    from rich.console import Console

    from samus_edge.calibration.bundle_calibration import CalibrationSettings, calibrate_bundle
    from samus_edge.runtime.bundle.bundle import Bundle, reference_precision
    from samus_edge.verification.verify_bundle import prove

    try:
        settings = CalibrationSettings(
            tuple(dict.fromkeys(precision)), max_dice_drop=budget, seed=seed
        )
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err
    drawn, where, source = _frames(data, split, frames, count, seed)

    def check(draft: Path) -> None:
        status.update(f"verifying on {len(source)} frames")
        prove(
            draft,
            source,
            (reference_precision(opened), *settings.precisions),
            allow_failing=allow_failing,
            command=command_line(context, places=False),
        )

    console = Console(stderr=True)
    with console.status("reading the bundle") as status:
        opened = Bundle.open(bundle, require_signature=require_signature)
        result = calibrate_bundle(
            opened,
            out,
            drawn,
            settings,
            data=where,
            overwrite=overwrite,
            check=check,
            report=status.update,
        )
        if chart is not None and result.int8:
            status.update("drawing")
            _draw_charts(result, chart)
    _print(result)


def _fit_quality(
    bundle: Path | None,
    source: tuple[Path, Path | None, Path | None, Path | None],
    count: int,
    seed: int,
) -> None:
    """Fit on the validation subset of a dataset, or of those of a configuration."""
    from collections import Counter

    from samus_edge.data.case import select_lesions
    from samus_edge.data.collection import joined, load_collection
    from samus_edge.data.dataset import load_subsets
    from samus_edge.evaluation.quality import calibrate_quality
    from samus_edge.training.config import find_config, read_config

    data, split, config, splits = source
    if config is None:
        cases = load_subsets(data, split, names=("val",)).val
        about = {"data": data.resolve().name, "subset": "val"}
    else:
        datasets = read_config(find_config(config)).datasets
        cases = joined(list(load_collection(data, datasets, splits).values())).val
        about = {"data": config.stem, "subset": "val"}
    cases = select_lesions(cases)
    of_each = Counter(case.dataset for case in cases).values()
    with progress_bar("Judging masks", sum(min(count, each) for each in of_each)) as bar:
        fitted = calibrate_quality(
            bundle,
            cases,
            {**about, "images_of_each": count},
            limit=count,
            seed=seed,
            on_case=lambda: bar.update(advance=1),
        )
    found = fitted.data
    typer.echo(f"fitted on {found['masks']} masks of {found['lesions']}: {found['good']} are good")


def _frames(
    data: Path | None, split: Path | None, folder: Path | None, count: int, seed: int
) -> "tuple[list[PromptedFrame], str, FrameSource]":
    """The frames to calibrate on, where they are from, and what is verified on."""
    from samus_edge.verification.frames import frames_of_cases, frames_of_folder, lesions_of_cases

    if folder is not None:
        source = frames_of_folder(folder, limit=count, seed=seed)
        return list(source.frames()), folder.resolve().name, source
    assert data is not None
    from samus_edge.data.dataset import load_subsets

    subsets = load_subsets(data, split, names=("train", "val"))
    name = "its own split" if split is None else split.name
    source = lesions_of_cases(
        subsets.val,
        groups=subsets.groups,
        seed=seed,
        about={"data": data.resolve().name, "split": name, "subset": "val"},
    )
    frames = frames_of_cases(subsets.train, count, seed)
    return frames, f"{data.resolve().name}, train of {name}", source


def _draw_charts(result: "CalibrationResult", folder: Path) -> None:
    from samus_edge.calibration.sensitivity import draw_sensitivity
    from samus_edge.runtime.images.output_files import write_files_atomically

    folder.mkdir(parents=True, exist_ok=True)
    name = result.bundle.manifest.name
    write_files_atomically(
        {
            folder / f"sensitivity_{precision}.png": draw_sensitivity(
                choice, f"{name}: {precision}"
            )
            for precision, choice in result.int8.items()
        }
    )


def _print(result: "CalibrationResult") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from samus_edge.runtime.bundle.bundle import available_precisions

    console = Console()
    bundle = result.bundle
    table = Table(title=escape(str(bundle.path)), title_justify="left")
    for column in ("precision", "image encoder, MB", "mask decoder, MB", "on 8 bits", "in fp32"):
        table.add_column(column)
    for name, graphs in available_precisions(bundle).items():
        sizes = [
            f"{bundle.graph_record(graph).size_bytes / 1e6:.2f}"
            for graph in (graphs.image_encoder, graphs.mask_decoder)
        ]
        int8 = result.int8.get(name)
        eight = ""
        if int8 is not None:
            eight = f"{len(int8.quantised)} of {len(int8.blocks)} blocks"
        kept = ""
        if name == "fp16" and result.kept_in_fp32:
            kept = ", ".join(f"{len(nodes)} nodes" for nodes in result.kept_in_fp32.values())
        table.add_row(name, *sizes, eight, kept)
    console.print(table)
    for name, choice in result.int8.items():
        agreement = choice.agreement
        console.print(
            f"{name} on the calibration frames: Dice drop {agreement.dice_drop:.2f} points, Dice "
            f"{agreement.mask_dice:.4f} with the float32 masks",
            highlight=False,
        )
        if choice.kept:
            blocks = ", ".join(block.block for block in choice.kept)
            console.print(f"  kept in higher precision: {blocks}", highlight=False, markup=False)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
