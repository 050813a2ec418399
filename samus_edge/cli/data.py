"""`samus-edge data`: import a dataset, check it, split it, look at what training sees."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import output_console, progress_bar
from samus_edge.cli.options import DataFolder, SplitFile, parse_fractions

if TYPE_CHECKING:
    from rich.table import Table

    from samus_edge.data.dataset_check import DatasetReport

MAX_FRAMES = 6
PICTURES = (".png", ".jpg", ".jpeg")

app = typer.Typer(
    rich_markup_mode=None, help="Import a dataset, check it, split it, look at what training sees."
)


@app.command("check")
def check(
    data: DataFolder,
    split: SplitFile = None,
    near_duplicates: Annotated[
        bool,
        typer.Option(
            "--near-duplicates",
            help="Also compare the images, and report near-duplicates in different subsets.",
        ),
    ] = False,
) -> None:
    """Decode every case once and report everything that is wrong.

    Reported are missing, damaged, empty and mismatched files, broken lines of US30K's text files,
    and cases, images or groups of near-duplicates that are in several subsets.

    Exit codes: 0 sound; 1 something is wrong; 2 an argument is wrong.
    """
    from samus_edge.data.dataset_check import check_dataset
    from samus_edge.errors import DataError

    with progress_bar("Checking") as bar:
        report = check_dataset(
            data,
            split,
            near_duplicates=near_duplicates,
            on_start=lambda count: bar.update(total=count),
            on_case=lambda case: bar.update(advance=1),
        )
    output_console().print(_count_table(report))
    for problem in report.problems:
        typer.echo(f"broken: {' '.join(problem.split())}")
    if report.problems:
        raise DataError(f"{len(report.problems)} problem(s) in {data}, listed above.")
    typer.echo(f"Nothing is wrong with {data} (layout: {report.layout}).")


@app.command("import")
def import_(
    annotations: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_FOLDER", help="The annotations, as their format has them.", exists=True
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Training set to make.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="coco, yolo, labelme, masks, nifti or npz; found out if left out.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The images; beside the annotations, or in images/ there, if left out.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    normal: Annotated[
        bool,
        typer.Option(
            "--normal", help="Keep images without an annotation, as normal; else they are left out."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing training set.")
    ] = False,
) -> None:
    """Make a training set, images/ and masks/, from annotations of other tools.

    Every lesion gets a mask of its own, so those that overlap stay apart. What is wrong with any
    image is listed, and then nothing is made.

    Exit codes: 0 done; 1 something is wrong; 2 an argument is wrong.
    """
    from samus_edge.data.import_dataset import import_dataset

    with progress_bar("Importing") as bar:
        report = import_dataset(
            annotations,
            out,
            kind=kind,
            images=images,
            keep_normal=normal,
            overwrite=overwrite,
            on_start=lambda count: bar.update(total=count),
            on_image=lambda image: bar.update(advance=1),
        )
    typer.echo(
        f"{out}: {report.images} images with {report.lesions} lesions from {report.format} "
        f"({report.normal} normal, {report.left_out} without an annotation left out)"
    )
    for label, count in sorted(report.labels.items()):
        typer.echo(f"  {label or 'without a class'}: {count}")


@app.command("split")
def split(
    data: DataFolder,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="JSON split file to write.", dir_okay=False)
    ],
    fractions: Annotated[
        str, typer.Option(metavar="TRAIN,VAL,TEST", help="Shares of the subsets.")
    ] = "0.7,0.1,0.2",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the order.")] = 0,
    threshold: Annotated[
        float,
        typer.Option(metavar="NUMBER", help="Near-duplicates: correlation of their thumbnails."),
    ] = 0.92,
    detail_threshold: Annotated[
        float,
        typer.Option(
            metavar="NUMBER", help="Near-duplicates: correlation of their details, also shifted."
        ),
    ] = 0.65,
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Keep together the cases in whose key this finds the same text: 'patient[0-9]+'.",
        ),
    ] = None,
    val: Annotated[
        str,
        typer.Option(metavar="REGEX", help="Validate on the cases in whose key this is found."),
    ] = "",
    test: Annotated[
        str,
        typer.Option(
            metavar="REGEX",
            help="Test on the cases in whose key this is found: '^test'. --fractions are of the "
            "rest, such as 0.8,0.2,0.",
        ),
    ] = "",
    skip: Annotated[
        str, typer.Option(metavar="REGEX", help="Leave out the cases in whose key this is found.")
    ] = "",
    show: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also draw the groups of near-duplicates (.png or .jpg).",
            dir_okay=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing split file.")
    ] = False,
) -> None:
    """Split a dataset into train, val and test without leaks.

    Near-duplicate images (frames of one sweep, crops, copies with callipers) are found by their
    content and stay in one subset, and each class is split by the given shares. The same
    arguments give the same file. Look at the groups with --show before you trust them.
    """
    _check_seed(seed)
    _check_out(out, "--out", (".json",))
    if show is not None:
        _check_out(show, "--show", PICTURES)
    if out.exists() and not overwrite:
        raise typer.BadParameter(
            f"{out} exists already; give another name, or --overwrite.", param_hint="--out"
        )
    shares = parse_fractions(fractions)

    from samus_edge.data.dataset import list_cases
    from samus_edge.data.near_duplicates import Similarity
    from samus_edge.data.splitting import (
        Fractions,
        assign_subsets,
        group_cases,
        select_matching,
        split_file_text,
    )
    from samus_edge.runtime.images.output_files import write_files_atomically

    checked, similarity = Fractions(*shares), Similarity(threshold, detail_threshold)
    cases = list_cases(data)
    skipped = select_matching(cases, skip)
    cases = [case for case in cases if case.key not in skipped]
    with progress_bar("Comparing", len(cases)) as bar:
        found = group_cases(
            cases,
            similarity,
            patient_pattern=patient,
            on_case=lambda case: bar.update(advance=1),
        )
    patterns = {"test": test, "val": val}
    subsets = assign_subsets(cases, found.groups, checked, seed=seed, patterns=patterns)
    about = {
        "dataset": data.resolve().name,
        "made_by": "samus-edge data split",
        "fractions": shares,
        "seed": seed,
        "threshold": threshold,
        "detail_threshold": detail_threshold,
        "patient": patient,
        **{name: text for name, text in {**patterns, "skip": skip}.items() if text},
    }
    files = {out: split_file_text(subsets, found.groups, about).encode()}
    if show is not None:
        from samus_edge.data.sheets import draw_group_sheet
        from samus_edge.runtime.images.overlay import encode_image

        files[show] = encode_image(show, draw_group_sheet(cases, found.groups))
    write_files_atomically(files)
    typer.echo(
        f"{len(cases)} cases in {len(set(found.groups.values()))} groups, "
        f"{len(found.pairs)} pairs of near-duplicates"
    )
    output_console().print(_split_table(subsets, {case.key: case.class_name for case in cases}))
    typer.echo(f"split: {out}")


@app.command("augmentations")
def augmentations(
    data: DataFolder,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Picture to write (.png or .jpg).", dir_okay=False)
    ],
    frames: Annotated[int, typer.Option(metavar="N", help="Frames to show, 1 to 6.")] = 2,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of frames and draws.")] = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML training configuration; the default one if left out.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Draw what the augmentations of training do: each alone, then all together.

    Frames are drawn from those with a lesion, which is outlined. An augmentation alone is always
    applied, as strong as configured; together, all have their configured probabilities.
    """
    _check_seed(seed)
    _check_out(out, "--out", PICTURES)
    if not 1 <= frames <= MAX_FRAMES:
        raise typer.BadParameter(
            f"must be from 1 to {MAX_FRAMES}, got {frames}.", param_hint="--frames"
        )

    import numpy as np

    from samus_edge.data.augmentation import AugmentationConfig
    from samus_edge.data.case import select_lesions
    from samus_edge.data.dataset import list_cases
    from samus_edge.data.sheets import draw_augmentation_sheet
    from samus_edge.runtime.images.output_files import write_files_atomically
    from samus_edge.runtime.images.overlay import encode_image

    strengths = AugmentationConfig()
    if config is not None:
        from samus_edge.training.config import read_config

        strengths = read_config(config).augmentation
    cases = select_lesions(list_cases(data))
    count = min(frames, len(cases))
    chosen = sorted(np.random.default_rng(seed).choice(len(cases), count, replace=False))
    sheet = draw_augmentation_sheet([cases[index] for index in chosen], strengths, seed=seed)
    write_files_atomically({out: encode_image(out, sheet)})
    typer.echo(f"{out}: {', '.join(cases[index].key for index in chosen)}")


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise typer.BadParameter(f"must be at least 0, got {seed}.", param_hint="--seed")


def _check_out(path: Path, option: str, suffixes: tuple[str, ...]) -> None:
    """Refuse what could not be written before any work is done."""
    if path.suffix.lower() not in suffixes:
        raise typer.BadParameter(
            f"must end in {' or '.join(suffixes)}, got {path}.", param_hint=option
        )
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(
            f"the folder of {path} does not exist; create it first.", param_hint=option
        )


def _count_table(report: "DatasetReport") -> "Table":
    from rich.markup import escape

    table = _table("subset", "class", numbers=("images", "lesions"))
    for count in report.counts:
        name = escape(count.class_name)
        table.add_row(escape(count.subset), name, str(count.cases), str(count.lesions))
    return table


def _split_table(subsets: dict[str, list[str]], classes: dict[str, str]) -> "Table":
    from rich.markup import escape

    names = list(dict.fromkeys(classes.values()))
    table = _table("subset", numbers=(*map(escape, names), "all"))
    for subset, keys in subsets.items():
        found = [classes[key] for key in keys]
        table.add_row(subset, *(str(found.count(name)) for name in names), str(len(keys)))
    return table


def _table(*columns: str, numbers: tuple[str, ...]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column)
    for column in numbers:
        table.add_column(column, justify="right")
    return table
