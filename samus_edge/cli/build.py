"""`samus-edge build`: what a bundle's graphs are compiled to, kept in the cache."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import output_console
from samus_edge.cli.options import (
    AsJson,
    BundlePath,
    DeviceName,
    RequireSignature,
    Threads,
    parse_frame_range,
    parse_frame_size,
    print_json,
)

if TYPE_CHECKING:
    from rich.console import Console

    from samus_edge.runtime.backends.gpu.device import Device
    from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions
    from samus_edge.runtime.backends.tensorrt.engine_cache import EngineCache
    from samus_edge.runtime.backends.tensorrt.tensorrt_backend import EngineTarget, ProvidedEngine
    from samus_edge.runtime.bundle.bundle import Bundle


def command(
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="tensorrt or openvino. [default: TensorRT where it is installed, else OpenVINO]",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="fp32, fp16 or int8, as the bundle has them. Repeat for more. [default: its "
            "reference]",
        ),
    ] = None,
    flavour: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="tensorrt, tensorrt_rtx, or auto: the first that is installed."
        ),
    ] = "auto",
    compute_capability: Annotated[
        str | None,
        typer.Option(
            metavar="X.Y",
            help="GPU to build for, which need not be here (TensorRT-RTX only), as 8.6. "
            "[default: this machine's]",
        ),
    ] = None,
    frame_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="The one size of all frames, pixels.")
    ] = None,
    frame_range: Annotated[
        str | None,
        typer.Option(
            metavar="HxW,HxW,HxW",
            help="Smallest, typical and largest frame. [default: 64x64,512x640,2048x2048]",
        ),
    ] = None,
    max_prompts: Annotated[
        int, typer.Option(metavar="N", min=1, max=1024, help="Prompts in one run; more are split.")
    ] = 16,
    max_points: Annotated[
        int,
        typer.Option(
            metavar="N", min=2, max=1024, help="Points of a prompt; the corners of a box are two."
        ),
    ] = 16,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Round float32 products to 10 bits of mantissa.")
    ] = False,
    workspace_mb: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="MB", help="Most memory that a layer may take while it is built."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the engines. [default: $SAMUS_EDGE_CACHE, or the user's cache]",
        ),
    ] = None,
    device: DeviceName = None,
    threads: Threads = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build, or compare, even what the cache has.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Use a version of TensorRT that is known to give wrong results."
        ),
    ] = False,
    list_only: Annotated[
        bool, typer.Option("--list", help="Show what is in the cache, and build nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build TensorRT engines, and check them on this machine's GPU; or compare OpenVINO with ONNX
    Runtime, so that `auto` takes it where it is right and faster.

    The runtime takes both from the cache. Engines belong to a GPU, a version of TensorRT and a
    graph, a comparison to a processor, a number of threads, a version of OpenVINO and a graph; for
    others they are made anew. Without a GPU, TensorRT-RTX builds for a named compute capability.

    Exit codes: 0 done; 1 a build or the check failed, or an engine could not be kept; 2 an argument
    is wrong.
    """
    from samus_edge.runtime.backends.tensorrt.engine_cache import EngineCache

    if backend not in (None, "tensorrt", "openvino"):
        raise typer.BadParameter(
            f"must be tensorrt or openvino, got {backend!r}: others need no build.",
            param_hint="--backend",
        )
    engines = EngineCache(cache)
    if list_only:
        _show(engines, as_json)
        return
    if frame_size is not None and frame_range is not None:
        raise typer.BadParameter("goes without --frame-size.", param_hint="--frame-range")
    options = _options(frame_size, frame_range, max_prompts, max_points, tf32, workspace_mb)

    from rich.console import Console

    from samus_edge.runtime.backends.backend_selection import backend_order, gpu_index
    from samus_edge.runtime.bundle.bundle import Bundle

    opened = Bundle.open(bundle, require_signature=require_signature)
    if backend == "openvino" or (backend is None and _has_only_openvino()):
        _compare_openvino(opened, precision, (device or "cpu", threads, cache), rebuild, as_json)
        return
    names = _precisions(opened, precision)
    backend_order("tensorrt", device)
    target, gpu = _target(flavour, compute_capability, gpu_index(device))
    _refuse_known_problems(target, opened, names, force)
    provided = _build(Console(stderr=True), opened, names, target, options, engines, rebuild)
    _print_built(provided, target, as_json)
    _refuse_unkept(provided, engines)
    if gpu is not None:
        _check_on_device(opened, names, gpu, target, engines, options, force)


def _has_only_openvino() -> bool:
    """Whether there is an OpenVINO and no TensorRT."""
    from importlib.util import find_spec

    from samus_edge.runtime.backends.tensorrt.tensorrt_library import TENSORRT_FLAVOURS

    return find_spec("openvino") is not None and not any(map(find_spec, TENSORRT_FLAVOURS))


def _compare_openvino(
    opened: "Bundle",
    precisions: list[str] | None,
    place: tuple[str, int | None, Path | None],
    rebuild: bool,
    as_json: bool,
) -> None:
    """Compare each precision of a bundle with ONNX Runtime, on a device with threads by a cache."""
    from samus_edge.runtime.backends.openvino_backend import OpenVinoBackend
    from samus_edge.runtime.bundle.bundle import check_precision, precision_name
    from samus_edge.runtime.segmenter import Segmenter

    device, threads, cache = place
    found = {}
    for name in precisions or ["auto"]:
        check_precision(name)
        backend = OpenVinoBackend(threads, device=device, cache=cache, renew=rebuild)
        with Segmenter(opened, backend, name) as segmenter:
            verdict = backend.verdict(segmenter, segmenter.reference)
        found[precision_name(opened, name)] = verdict
        if not as_json:
            taken = "takes it" if verdict.is_faster else "keeps to ONNX Runtime"
            typer.echo(f"{segmenter.precision} on {backend.device} in {verdict}; auto {taken}")
    if as_json:
        print_json(
            {
                "library": f"openvino {backend.version}",
                "device": backend.device,
                "threads": backend.threads,
                "precisions": {
                    name: verdict.to_json() | {"is_faster": verdict.is_faster}
                    for name, verdict in found.items()
                },
            }
        )


def _options(
    frame_size: str | None,
    frame_range: str | None,
    max_prompts: int,
    max_points: int,
    tf32: bool,
    workspace_mb: int | None,
) -> "EngineOptions":
    from samus_edge.runtime.backends.tensorrt.engine_build import (
        ANY_FRAME,
        EngineOptions,
        ShapeRange,
    )

    frames = ANY_FRAME
    if frame_size is not None:
        frames = ShapeRange.fixed(parse_frame_size(frame_size))
    elif frame_range is not None:
        frames = ShapeRange(*parse_frame_range(frame_range))
    return EngineOptions(
        frames=frames,
        max_prompts=max_prompts,
        max_points=max_points,
        tf32=tf32,
        workspace_bytes=None if workspace_mb is None else workspace_mb * 1_000_000,
    )


def _precisions(opened: "Bundle", wanted: list[str] | None) -> list[str]:
    """The precisions to build, each once."""
    from samus_edge.runtime.bundle.bundle import check_precision, precision_name

    for name in wanted or ():
        check_precision(name)
        if name == "int8-cpu":
            raise typer.BadParameter(
                "int8-cpu has zero points other than 0, which TensorRT does not take. Use int8.",
                param_hint="--precision",
            )
    return list(dict.fromkeys(precision_name(opened, name) for name in wanted or ["auto"]))


def _target(
    flavour: str, compute_capability: str | None, index: int | None
) -> "tuple[EngineTarget, Device | None]":
    """What to build for; and the GPU of this machine, if it is that."""
    from samus_edge.errors import BackendError
    from samus_edge.runtime.backends.gpu.find_device import find_device
    from samus_edge.runtime.backends.tensorrt.tensorrt_backend import EngineTarget
    from samus_edge.runtime.backends.tensorrt.tensorrt_library import find_tensorrt

    library = find_tensorrt(flavour)
    if compute_capability is not None:
        if library.flavour == "tensorrt":
            raise typer.BadParameter(
                f"{library} builds for the GPU of this machine only. Leave it out, or use "
                "--flavour "
                "tensorrt_rtx.",
                param_hint="--compute-capability",
            )
        return EngineTarget(library, compute_capability, None), None
    try:
        device = find_device(index=index)
    except BackendError as err:
        hint = ""
        if library.flavour == "tensorrt_rtx":
            hint = " To build for a GPU that is not here: --compute-capability, for example 8.6"
        raise BackendError(f"{err}{hint}") from err
    return EngineTarget.of(library, device.info), device


def _refuse_known_problems(
    target: "EngineTarget", opened: "Bundle", names: list[str], force: bool
) -> None:
    from samus_edge.runtime.backends.tensorrt.tensorrt_library import refuse_known_problem
    from samus_edge.runtime.bundle.bundle import graphs_to_run

    for name in names:
        for graph in graphs_to_run(opened, name):
            refuse_known_problem(
                target.library.flavour,
                target.library.version,
                target.compute_capability,
                opened.graph_record(graph).precision,
                force=force,
            )


def _build(
    console: "Console",
    opened: "Bundle",
    names: list[str],
    target: "EngineTarget",
    options: "EngineOptions",
    engines: "EngineCache",
    rebuild: bool,
) -> "dict[str, ProvidedEngine]":
    """Build every graph of the precisions once, with a progress bar on a terminal's stderr."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from samus_edge.runtime.backends.tensorrt.engine_build import BuildProgress
    from samus_edge.runtime.backends.tensorrt.tensorrt_backend import provide_engine
    from samus_edge.runtime.bundle.bundle import graphs_to_run

    graphs = [graph for name in names for graph in graphs_to_run(opened, name)]
    provided: dict[str, ProvidedEngine] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        for graph in dict.fromkeys(graphs):
            record = opened.graph_record(graph)
            estimate = _last_seconds(engines, graph, target)
            about = f", about {estimate:.0f} s" if estimate is not None else ""
            task = progress.add_task(f"{graph}{about}", total=None)

            def advance(
                step: BuildProgress, task: "object" = task, title: str = f"{graph}{about}"
            ) -> None:
                if step.within is None:
                    progress.update(
                        task,  # type: ignore[arg-type]  # rich's own number of the task
                        description=f"{title}: {step.phase}",
                        completed=step.done,
                        total=step.steps,
                    )

            def wait(graph: str = graph) -> None:
                console.print(f"{graph}: another process is building it; waiting", highlight=False)

            provided[graph] = provide_engine(
                graph,
                opened.read_graph(graph),
                record,
                target=target,
                options=options,
                cache=engines,
                rebuild=rebuild,
                on_progress=advance,
                on_wait=wait,
            )
            progress.remove_task(task)
    return provided


def _last_seconds(engines: "EngineCache", graph: str, target: "EngineTarget") -> float | None:
    """How long the last build of such a graph took here."""
    for entry in engines.entries():
        if entry.graph == graph and entry.key.flavour == target.library.flavour:
            return entry.build_seconds
    return None


def _print_built(
    provided: "dict[str, ProvidedEngine]", target: "EngineTarget", as_json: bool
) -> None:
    import json

    built_for = target.gpu_name or f"compute capability {target.compute_capability}"
    if as_json:
        document = {
            "library": str(target.library),
            "gpu": target.gpu_name,
            "compute_capability": target.compute_capability,
            "engines": {
                graph: {
                    "bytes": len(engine.engine),
                    "file": None if engine.entry is None else str(engine.entry.path),
                    "was_built": engine.was_built,
                    "build_seconds": None if engine.entry is None else engine.entry.build_seconds,
                }
                for graph, engine in provided.items()
            },
        }
        typer.echo(json.dumps(document, indent=2))
        return
    table = _table(f"{target.library}, for {built_for}")
    for column in ("graph", "MB", "seconds", ""):
        table.add_column(column)
    for graph, engine in provided.items():
        entry = engine.entry
        seconds = "" if entry is None else f"{entry.build_seconds:.1f}"
        kept = "not kept" if entry is None else entry.path.name
        how = "built" if engine.was_built else "from the cache"
        table.add_row(graph, f"{len(engine.engine) / 1e6:.1f}", seconds, f"{how}, {kept}")
    _print(table)


def _refuse_unkept(provided: "dict[str, ProvidedEngine]", engines: "EngineCache") -> None:
    """An engine that is not in the cache is of no use to anybody."""
    from samus_edge.errors import OutputFileError
    from samus_edge.runtime.backends.backend import CACHE_VARIABLE

    unkept = [graph for graph, engine in provided.items() if engine.entry is None]
    if unkept:
        raise OutputFileError(
            f"the engines of {', '.join(unkept)} were built, but could not be kept in "
            f"{engines.folder}. Make room there, or name another folder with --cache or in "
            f"{CACHE_VARIABLE}."
        )


def _show(engines: "EngineCache", as_json: bool) -> None:
    """What the cache has."""
    import json
    import time

    from samus_edge.runtime.bundle.records import to_json

    entries = engines.entries()
    if as_json:
        listed = [
            {
                "file": entry.path.name,
                "graph": entry.graph,
                "bytes": entry.size_bytes,
                "build_seconds": entry.build_seconds,
                **to_json(entry.key),
            }
            for entry in entries
        ]
        typer.echo(json.dumps({"folder": str(engines.folder), "engines": listed}, indent=2))
        return
    table = _table(f"{engines.folder}: {len(entries)} engines")
    for column in ("graph", "library", "for", "MB", "built", "file"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        key = entry.key
        table.add_row(
            entry.graph,
            f"{key.flavour} {key.version}",
            key.gpu_name or key.compute_capability,
            f"{entry.size_bytes / 1e6:.1f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.built)),
            entry.path.name,
        )
    _print(table)


def _check_on_device(
    opened: "Bundle",
    names: list[str],
    device: "Device",
    target: "EngineTarget",
    engines: "EngineCache",
    options: "EngineOptions",
    force: bool,
) -> None:
    """Load every precision, which compares it with ONNX Runtime, and say how near it is."""
    from samus_edge.runtime.backends.tensorrt.tensorrt_backend import (
        TensorRTBackend,
        TensorRTOptions,
    )
    from samus_edge.runtime.segmenter import Segmenter

    for name in names:
        backend = TensorRTBackend(
            TensorRTOptions(cache=engines.folder, engine=options, force=force),
            library=target.library,
            device=device,
        )
        with Segmenter(opened, backend, name) as segmenter:
            check = backend.engine_check(segmenter, segmenter.reference)
        typer.echo(
            f"{name} on {device.info.name}: {check.masks} masks, mean IoU "
            f"{check.mean_mask_iou:.4f}, "
            f"worst {check.worst_mask_iou:.4f} against ONNX Runtime",
            err=True,
        )


def _table(title: str):  # type: ignore[no-untyped-def]  # rich is imported where it is needed
    from rich.table import Table

    return Table(title=title, title_justify="left")


def _print(table: object) -> None:

    console = output_console(120)
    console.print(table)
