"""A benchmark from its options to its results."""

import os
import platform
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Protocol

from samus_edge import __version__
from samus_edge.benchmarking.bench_results import BenchResults, rows_of
from samus_edge.benchmarking.runtime_subject import RuntimeSubject
from samus_edge.benchmarking.subject import WARM_UP_RUNS, Subject, Workload
from samus_edge.benchmarking.turns import time_in_turns
from samus_edge.errors import BackendError, SamusEdgeError
from samus_edge.jobs.doctor import find_jetson, package_versions
from samus_edge.runtime.backends.backend import (
    Backend,
    cpu_features,
    cpu_model,
    default_threads,
    usable_cores,
)
from samus_edge.runtime.backends.backend_selection import AUTO_ORDER, select_backend
from samus_edge.runtime.backends.gpu.find_device import list_gpus
from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions, ShapeRange
from samus_edge.runtime.bundle.bundle import Bundle


def describe_hardware() -> dict[str, object]:
    """Processor, GPUs, operating system and versions, ready for JSON; nothing that names the
    machine."""
    jetson = find_jetson()
    try:
        gpus = list_gpus()
    except SamusEdgeError:
        gpus = []
    return {
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "logical_cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "machine": platform.machine(),
        "system": platform.system(),
        "gpus": [asdict(gpu) for gpu in gpus],
        "jetson": None if jetson is None else asdict(jetson),
        "python": platform.python_version(),
        "packages": {
            "samus-edge": __version__,
            **{name: version for name, version in package_versions().items() if version},
        },
    }


RIVALS = ("torch", "torch-compile")
"""What the runtime is compared with, where torch is installed."""

_RIVALS_MISSING = "torch or onnx is not installed: pip install 'samus-edge[export]'"


class Progress(Protocol):
    """Hears what begins, how many turns there will be, and each turn's end."""

    def __call__(
        self, title: str | None = None, /, *, total: int | None = None, advance: int = 0
    ) -> None: ...


def _no_progress(
    title: str | None = None, /, *, total: int | None = None, advance: int = 0
) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class BenchOptions:
    """What is benchmarked, and for how long.

    Attributes:
        backends: names of backends; empty for each of "auto" that works here.
        precisions: precisions, as the bundle calls them.
        rivals: some of `RIVALS`.
        rounds: how often each subject gets its turn.
        runs: timed runs in a turn.
        threads: CPU threads; None for `default_threads`.
    """

    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("auto",)
    rivals: tuple[str, ...] = RIVALS
    rounds: int = 10
    runs: int = 5
    threads: int | None = None


def run_bench(
    bundle: Bundle,
    workload: Workload,
    options: BenchOptions,
    progress: Progress = _no_progress,
) -> BenchResults:
    """Open everything, time it in turns, and compare it.

    Raises:
        BackendError: if nothing that was asked for can be run; or a backend that was named cannot.
    """
    results = BenchResults()
    threads = options.threads or default_threads()
    with ExitStack() as closing:
        subjects = _open_all(bundle, workload, options, threads, results, progress, closing)
        turns = options.rounds * sum(len(subject.stages) for subject in subjects)
        progress("timing", total=turns)
        timed = time_in_turns(
            subjects,
            rounds=options.rounds,
            runs=options.runs,
            on_turn=partial(progress, advance=1),
        )
        results.rows, results.subjects = rows_of(timed), subjects
    results.facts = {
        "bundle": bundle.manifest.name,
        "frame_hw": list(workload.original_hw),
        "threads": threads,
        "rounds": options.rounds,
        "runs_in_a_turn": options.runs,
        "warm_up_runs": WARM_UP_RUNS,
        "hardware": describe_hardware(),
    }
    return results


def _open_all(
    bundle: Bundle,
    workload: Workload,
    options: BenchOptions,
    threads: int,
    results: BenchResults,
    progress: Progress,
    closing: ExitStack,
) -> list[Subject]:
    subjects: list[Subject] = []

    def add(subject: Subject) -> None:
        closing.callback(subject.close)
        subjects.append(subject)

    for backend in options.backends or AUTO_ORDER:
        for precision in options.precisions:
            progress(f"opening {backend} {precision}")
            try:
                add(open_runtime(bundle, backend, precision, workload, threads))
            except BackendError as err:
                if options.backends:
                    raise
                results.left_out[f"{backend} {precision}"] = str(err)
    for rival in options.rivals:
        if find_spec("torch") is None or find_spec("onnx") is None:
            results.left_out[rival] = _RIVALS_MISSING
            continue
        import torch

        from samus_edge.benchmarking.torch_subject import TorchSubject

        compiled = rival == "torch-compile"
        # Where there is a GPU, what competes with TensorRT is half precision.
        for precision in ("fp32", "fp16") if torch.cuda.is_available() else ("fp32",):
            progress(f"opening {rival} {precision}{', which compiles' if compiled else ''}")
            opened = partial(TorchSubject, precision=precision, compiled=compiled, threads=threads)
            try:
                add(opened(bundle, workload))
            except SamusEdgeError as err:
                results.left_out[f"{rival} {precision}"] = str(err)
    if not subjects:
        why = " ".join(f"{name}: {reason}" for name, reason in results.left_out.items())
        raise BackendError(f"there is nothing to benchmark. {why}")
    return subjects


def open_runtime(
    bundle: Bundle, backend: str, precision: str, workload: Workload, threads: int
) -> RuntimeSubject:
    """The runtime on a backend; on TensorRT with engines for this frame's size alone.

    Raises:
        BackendError: if the backend is not there, or cannot run the bundle.
    """
    if backend != "tensorrt":
        return RuntimeSubject(bundle, select_backend(backend, threads), precision, workload)
    make = partial(_tensorrt, workload)
    return RuntimeSubject(bundle, make(1), precision, workload, backend_for_batch=make)


def _tensorrt(workload: Workload, frames_per_run: int) -> Backend:
    from samus_edge.runtime.backends.tensorrt.tensorrt_backend import (
        TensorRTBackend,
        TensorRTOptions,
    )

    engine = EngineOptions(
        frames=ShapeRange.fixed(workload.original_hw),
        frames_per_run=frames_per_run,
        max_prompts=max(workload.prompts, default=1),
    )
    return TensorRTBackend(TensorRTOptions(engine=engine))
