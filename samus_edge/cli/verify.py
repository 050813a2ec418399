"""`samus-edge verify`: proof of a bundle before it ships."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import output_console, progress_bar
from samus_edge.cli.eval import Subset
from samus_edge.cli.options import (
    BundlePath,
    RequireSignature,
    SplitFile,
    check_outputs,
    command_line,
    refuse_record,
    versions_line,
)

if TYPE_CHECKING:
    from samus_edge.runtime.bundle.bundle import Bundle
    from samus_edge.verification.frames import FrameSource
    from samus_edge.verification.gates import VerificationGates
    from samus_edge.verification.verify_bundle import VerificationResult

HTML_NAME = "verification.html"
PICTURES = 4
"""How many of the masks that agree least an HTML report shows for each precision."""
EXIT_FAILED = 1


def command(
    context: typer.Context,
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Dataset whose lesions are segmented; layouts as for `eval`.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    split: SplitFile = None,
    subset: Annotated[
        Subset | None,
        typer.Option(help="Subset of the dataset.", show_default="val"),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of frames without masks instead of --data: agreement alone, no Dice.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Verify this precision; repeat for several. All if left out."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What runs the precisions, the reference as well, which is then compared with "
            "itself on ONNX Runtime. [default: onnxruntime]",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="How many lesions (or frames) at most, drawn by --seed.", min=1
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Dice points that any precision may lose, instead of 0.2 (fp16) and 0.5 (int8).",
            min=0,
            max=100,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a report with the masks that agree least; into a folder: "
            + HTML_NAME
            + ".",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all figures to this JSON file.", dir_okay=False),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the draw, prompts and intervals.", min=0)
    ] = 0,
    allow_failing: Annotated[
        bool,
        typer.Option(
            "--allow-failing", help="Exit with 0 also if a limit fails; --record says so."
        ),
    ] = False,
    record: Annotated[
        bool,
        typer.Option(help="Write the verdicts, failed ones too, into the bundle's manifest."),
    ] = False,
) -> None:
    """Hold every precision of a bundle against its limits, on real frames.

    The reference graphs must have been compared with PyTorch at export; other precisions are
    compared with the reference: embeddings, logits, masks, Dice. Nothing here needs PyTorch.

    Exit codes: 0 all limits hold; 1 one does not, or the bundle is damaged; 2 an argument is wrong.
    """
    if (data is None) == (frames is None):
        raise typer.BadParameter("give either --data or --frames.")
    if frames is not None:
        for name, option in (("--split", split), ("--subset", subset)):
            if option is not None:
                raise typer.BadParameter("goes with --data, not with --frames.", param_hint=name)
    refuse_record(record, require_signature)
    if html is not None and html.is_dir():
        html = html / HTML_NAME
    check_outputs({"--out": out, "--html": html})

    from samus_edge.runtime.backends.backend_selection import check_backend
    from samus_edge.runtime.bundle.bundle import Bundle, check_precision, precision_name
    from samus_edge.verification.gates import GATES

    if backend == "auto":
        raise typer.BadParameter("name the one to verify, not auto.", param_hint="--backend")
    if backend is not None:
        check_backend(backend)
    for name in precision or ():
        check_precision(name)
    opened = Bundle.open(bundle, require_signature=require_signature)
    for name in precision or ():
        precision_name(opened, name)
    if record:
        _ = opened.folder  # a zip file is refused now, not after the work
    chosen = Subset.VAL if subset is None else subset
    source = _source(data, split, chosen, frames, limit, seed)
    gates = GATES if max_drop is None else GATES.with_max_drop(max_drop)
    result = _verify(opened, source, precision, gates, PICTURES if html is not None else 0, backend)
    line = command_line(context, places=False)
    _write(result, line, out, html)
    if record:
        from samus_edge.verification.verify_bundle import record_verification

        record_verification(Bundle.open(bundle), result, allow_failing=allow_failing, command=line)
    _print(result)
    for failure in result.failures():
        kind = "allowed" if allow_failing else "failed"
        typer.echo(f"{kind}: {' '.join(failure.split())}", err=True)
    if not result.passed and not allow_failing:
        raise typer.Exit(EXIT_FAILED)


def _source(
    data: Path | None,
    split: Path | None,
    subset: Subset,
    frames: Path | None,
    limit: int | None,
    seed: int,
) -> "FrameSource":
    """The frames and prompts that were asked for."""
    from samus_edge.verification.frames import frames_of_folder, lesions_of_cases

    if frames is not None:
        return frames_of_folder(frames, limit=limit, seed=seed)
    assert data is not None  # one of the two was given
    from samus_edge.data.dataset import load_subsets

    subsets = load_subsets(data, split, names=(subset.value,))
    split_name = "the dataset's own" if split is None else split.name
    return lesions_of_cases(
        subsets.get(subset.value),
        groups=subsets.groups,
        limit=limit,
        seed=seed,
        about={"data": data.resolve().name, "split": split_name, "subset": subset.value},
    )


def _verify(
    opened: "Bundle",
    source: "FrameSource",
    precisions: list[str] | None,
    gates: "VerificationGates",
    pictures: int,
    backend: str | None,
) -> "VerificationResult":
    """Verify, saying how far it is."""
    from samus_edge.runtime.backends.backend_selection import select_backend
    from samus_edge.verification.verify_bundle import verify_bundle

    with progress_bar("Verifying", len(source)) as bar:
        return verify_bundle(
            opened,
            source,
            precisions or None,
            gates=gates,
            backend=None if backend in (None, "onnxruntime") else select_backend(backend),
            pictures=pictures,
            on_frame=lambda name: bar.update(advance=1),
        )


def _write(result: "VerificationResult", line: str, out: Path | None, html: Path | None) -> None:
    """Write the files that were asked for, all or none."""
    import json

    from samus_edge.runtime.images.output_files import write_files_atomically

    contents: dict[Path, bytes] = {}
    if out is not None:
        document = {**result.to_json(), "command": line}
        contents[out] = (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
    if html is not None:
        from samus_edge.verification.html_report import render_verification

        page = render_verification(result, {"command": line, "versions": versions_line()})
        contents[html] = page.encode(errors="backslashreplace")
    write_files_atomically(contents)


def _print(result: "VerificationResult") -> None:
    from samus_edge.cli import tables

    console = output_console()
    console.print(tables.prompt_table(result))
    console.print(tables.verdict_table(result))
    if "lesions" not in result.about:
        console.print("The true masks are not known: agreement was checked, no Dice budget.")
    for each in result.precisions:
        latency = each.figures.latency
        if latency is not None and latency.note:
            console.print(f"{each.precision}: {latency.note}", highlight=False, markup=False)
