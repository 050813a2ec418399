"""`samus-edge bench`: how fast a bundle is here, and what it would be on a Jetson."""

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
    from samus_edge.runtime.bundle.bundle import Bundle

__all__ = ["command"]

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
    roofline: Annotated[
        bool, typer.Option(help="Measure the machine's limits, and compare with them.")
    ] = True,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="Measure nothing: ESTIMATE what a Jetson would need, from its published figures. "
            "A "
            "name as orin-nano-8gb, or all. Repeat for more.",
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
        options = _options(backend, precision, compare, rounds, runs, threads, roofline)
        modules = _modules(plan)
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err
    check_outputs({"--out": out, "--chart": chart}, {"--out": ".json", "--chart": ".png"})
    if chart is not None:
        from samus_edge.reporting.figure import require_matplotlib

        require_matplotlib()
    opened = Bundle.open(bundle, require_signature=require_signature)
    if modules:
        _plan(opened, workload, modules, out, as_json)
        return
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
    has_roofline: bool,
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
        has_roofline=has_roofline,
    )


def _modules(names: list[str] | None) -> list[str]:
    from samus_edge.benchmarking.planner import JETSON_MODULES

    if names is not None and "all" in names:
        return list(JETSON_MODULES)
    for name in names or ():
        if name not in JETSON_MODULES:
            known = ", ".join(JETSON_MODULES)
            raise BadArgumentError(f"--plan must be all or one of {known}, got {name!r}.")
    return names or []


def _plan(
    opened: "Bundle", workload: "Workload", modules: list[str], out: Path | None, as_json: bool
) -> None:
    from dataclasses import asdict

    from samus_edge.benchmarking.planner import (
        ASSUMPTIONS,
        JETSON_MODULES,
        estimate,
        work_of_bundle,
    )

    work = work_of_bundle(opened, workload)
    estimates = [each for name in modules for each in estimate(JETSON_MODULES[name], work)]
    document = json.dumps(
        {
            "estimate": "from published ceilings and assumed efficiencies; nothing was measured",
            "bundle": opened.manifest.name,
            "assumptions": {name: asdict(each) for name, each in ASSUMPTIONS.items()},
            "modules": {name: asdict(JETSON_MODULES[name]) for name in modules},
            "graphs": {name: counted.to_json() for name, counted in work.items()},
            "estimates": [asdict(each) for each in estimates],
        },
        indent=2,
    )
    if out is not None:
        _write({out: f"{document}\n".encode()})
    if as_json:
        typer.echo(document)
        return
    from samus_edge.cli.tables import plan_table

    console = output_console(150)
    console.print(plan_table(estimates))
    for end, assumed in ASSUMPTIONS.items():
        console.print(
            f"ESTIMATE, {end} end: {assumed.compute:.0%} of the tensor cores' ceiling, "
            f"{assumed.bandwidth:.0%} of the memory's, {assumed.launch_ms} ms to launch; assumed",
            highlight=False,
        )


def _write(contents: dict[Path, bytes]) -> None:
    from samus_edge.runtime.images.output_files import write_files_atomically

    if contents:
        write_files_atomically(contents)
        typer.echo(f"written: {', '.join(str(path) for path in contents)}", err=True)


def _print(results: "BenchResults") -> None:
    from samus_edge.cli.tables import latency_table, roofline_table, subject_table

    console = output_console(150)
    console.print(latency_table(results))
    console.print(subject_table(results))
    if results.points:
        console.print(roofline_table(results))
    for name, why in results.left_out.items():
        console.print(f"left out: {name}: {' '.join(why.split())}", highlight=False, markup=False)
