"""`samus-edge bench`: how fast a bundle is here."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import output_console, progress_bar
from samus_edge.cli.options import (
    AsJson,
    BundlePath,
    RequireSignature,
    check_outputs,
    parse_frame_size,
    parse_sizes,
)
from samus_edge.errors import BadArgumentError

if TYPE_CHECKING:
    from samus_edge.benchmarking.bench_results import BenchResults
    from samus_edge.benchmarking.bench_run import BenchOptions
    from samus_edge.benchmarking.subject import Workload

_NONE = "none"


def command(
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, openvino or tensorrt. "
            "Repeat for more. [default: all that work here]",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="As the bundle has them. Repeat for more. [default: its reference]"
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="torch, torch-compile (a minute or two to compile) or none. Repeat for more. "
            "[default: both]",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Frame to segment; without it one that is installed along."
        ),
    ] = None,
    frame_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Resize the frame to this, pixels.")
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="N,N,...", help="Frames in one run of the image encoder.")
    ] = "1,2,4",
    prompts: Annotated[
        str, typer.Option(metavar="N,N,...", help="Boxes in one run of the mask decoder.")
    ] = "1,4,16",
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="How often each subject gets its turn.")
    ] = 10,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Timed runs in a turn.")] = 5,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=256, help="CPU threads. [default: all cores, at most 8]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the results, JSON.")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the results, PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time image encoder, mask decoder and both together, beside torch, in turns.

    Times are from host to host and, on a GPU, also by its own clock without copies. Runs that warm
    up do not count. Ratios are to the first subject's median.

    Exit codes: 0 measured; 1 nothing could be; 2 a bad argument.
    """
    # Here, so that --help answers at once.
    from samus_edge.benchmarking.bench_run import run_bench
    from samus_edge.runtime.bundle.bundle import Bundle

    try:
        workload = _workload(image, frame_size, batch, prompts)
        options = _options(backend, precision, compare, rounds, runs, threads)
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err
    check_outputs({"--out": out, "--chart": chart}, {"--out": ".json", "--chart": ".png"})
    if chart is not None:
        from samus_edge.reporting.figure import require_matplotlib

        require_matplotlib()
    opened = Bundle.open(bundle, require_signature=require_signature)
    with progress_bar("opening") as bar:
        results = run_bench(opened, workload, options, bar.update)
    document = json.dumps(results.to_json(), indent=2) + "\n"
    contents: dict[Path, bytes] = {}
    if out is not None:
        contents[out] = document.encode()
    if chart is not None:
        from samus_edge.benchmarking.bench_results import draw_chart

        contents[chart] = draw_chart(results)
    _write(contents)
    if as_json:
        typer.echo(document, nl=False)
    else:
        _print(results)


def _workload(image: Path | None, frame_size: str | None, batch: str, prompts: str) -> "Workload":
    import cv2
    import numpy as np

    from samus_edge.benchmarking.subject import Workload
    from samus_edge.runtime.bundle.check_frame import load_check_frames
    from samus_edge.runtime.images.image_io import read_image

    batches, counts = parse_sizes("--batch", batch), parse_sizes("--prompts", prompts)
    hw = None if frame_size is None else parse_frame_size(frame_size)
    frame = load_check_frames()[0].image if image is None else read_image(image)
    if hw is not None:
        frame = cv2.resize(frame, (hw[1], hw[0])).astype(np.uint8)
    return Workload.of(frame, batches, counts)


def _options(
    backends: list[str] | None,
    precisions: list[str] | None,
    compare: list[str] | None,
    rounds: int,
    runs: int,
    threads: int | None,
) -> "BenchOptions":
    from samus_edge.benchmarking.bench_run import RIVALS, BenchOptions
    from samus_edge.runtime.backends.backend_selection import check_backend
    from samus_edge.runtime.bundle.bundle import check_precision

    for name in backends or ():
        check_backend(name)
        if name == "auto":
            raise BadArgumentError("--backend auto is what happens without it: leave it out.")
    for name in precisions or ():
        check_precision(name)
    rivals = RIVALS if compare is None else tuple(dict.fromkeys(compare))
    unknown = [name for name in rivals if name not in (*RIVALS, _NONE)]
    if unknown:
        known = ", ".join((*RIVALS, _NONE))
        raise BadArgumentError(f"--compare must be one of {known}, got {unknown[0]!r}.")
    return BenchOptions(
        backends=tuple(dict.fromkeys(backends or ())),
        precisions=tuple(dict.fromkeys(precisions or ("auto",))),
        rivals=tuple(name for name in rivals if name != _NONE),
        rounds=rounds,
        runs=runs,
        threads=threads,
    )


def _write(contents: dict[Path, bytes]) -> None:
    from samus_edge.runtime.images.output_files import write_files_atomically

    if contents:
        write_files_atomically(contents)
        typer.echo(f"written: {', '.join(str(path) for path in contents)}", err=True)


def _print(results: "BenchResults") -> None:
    from samus_edge.cli.tables import latency_table, subject_table

    console = output_console(150)
    console.print(latency_table(results))
    console.print(subject_table(results))
    for name, why in results.left_out.items():
        console.print(f"left out: {name}: {' '.join(why.split())}", highlight=False, markup=False)
