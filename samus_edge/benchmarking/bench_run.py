"""A benchmark from its options to its results."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from samus_edge import __version__
from samus_edge.benchmarking.bench_results import BenchResults, rows_of
from samus_edge.benchmarking.planner import (
    Ceiling,
    cpu_ceiling,
    cuda_ceilings,
    roofline,
    work_of_bundle,
)
from samus_edge.benchmarking.runtime_subject import RuntimeSubject
from samus_edge.benchmarking.subject import Subject, Workload
from samus_edge.benchmarking.turns import time_in_turns
from samus_edge.errors import BackendError, SamusEdgeError
from samus_edge.jobs.doctor import cpu_features, cpu_model, find_jetson, package_versions
from samus_edge.runtime.backends.backend import Backend, default_threads
from samus_edge.runtime.backends.backend_selection import AUTO_ORDER, select_backend
from samus_edge.runtime.backends.gpu.find_device import list_gpus
from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions, ShapeRange
from samus_edge.runtime.bundle.bundle import Bundle

__all__ = [
    "RIVALS",
    "BenchOptions",
    "describe_hardware",
    "open_runtime",
    "run_bench",
    "write_results",
]


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
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
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


def write_results(path: Path, document: Mapping[str, Any]) -> None:
    """Write a benchmark's results, JSON, with the hardware that they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**document, "hardware": describe_hardware()}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"written to {path}")


RIVALS = ("torch", "torch-compile")
"""What the runtime is compared with, where torch is installed."""

_WARM_UP_RUNS = 3


@dataclass(frozen=True)
class BenchOptions:
    """What is benchmarked, and for how long.

    Attributes:
        backends: by name; empty for each of "auto" that works here.
        precisions: as the bundle calls them.
        rivals: of `RIVALS`.
        rounds: of turns.
        runs: that are timed in a turn.
        threads: of the CPU; None for `default_threads`.
        has_roofline: whether work is counted and ceilings are measured.
    """

    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("auto",)
    rivals: tuple[str, ...] = RIVALS
    rounds: int = 10
    runs: int = 5
    threads: int | None = None
    has_roofline: bool = True


def run_bench(
    bundle: Bundle,
    workload: Workload,
    options: BenchOptions,
    *,
    on_step: Callable[[str], None] = lambda step: None,
    on_turns: Callable[[int], None] = lambda count: None,
    on_turn: Callable[[], None] = lambda: None,
) -> BenchResults:
    """Open everything, time it in turns, and compare it.

    Args:
        bundle: opened.
        workload: what is computed.
        options: what is timed.
        on_step: called with what begins.
        on_turns: called with the number of turns before the first.
        on_turn: called after each turn.

    Raises:
        BackendError: if nothing that was asked for can be run; or a backend that was named cannot.
    """
    results = BenchResults()
    threads = options.threads or default_threads()
    with ExitStack() as closing:
        subjects: list[Subject] = []
        for subject in _open_all(bundle, workload, options, threads, results, on_step):
            closing.callback(subject.close)
            subjects.append(subject)
        turns = options.rounds * sum(len(subject.stages) for subject in subjects)
        on_turns(turns)
        timed = time_in_turns(subjects, rounds=options.rounds, runs=options.runs, on_turn=on_turn)
        results.rows = rows_of(timed)
        results.add_subjects(subjects)
        if options.has_roofline:
            on_step("measuring the machine's limits")
            on_gpu = any(subject.is_on_gpu for subject in subjects)
            _add_roofline(results, bundle, workload, threads, on_gpu)
            results.points = roofline(timed, results.work, results.ceilings)
    results.facts = {
        "bundle": bundle.manifest.name,
        "frame_hw": list(workload.original_hw),
        "threads": threads,
        "rounds": options.rounds,
        "runs_in_a_turn": options.runs,
        "warm_up_runs": _WARM_UP_RUNS,
        "hardware": describe_hardware(),
    }
    return results


def _open_all(
    bundle: Bundle,
    workload: Workload,
    options: BenchOptions,
    threads: int,
    results: BenchResults,
    on_step: Callable[[str], None],
) -> Sequence[Subject]:
    opened: list[Subject] = []
    try:
        for backend in options.backends or AUTO_ORDER:
            for precision in options.precisions:
                on_step(f"opening {backend} {precision}")
                try:
                    opened.append(open_runtime(bundle, backend, precision, workload, threads))
                except BackendError as err:
                    if options.backends:
                        raise
                    results.left_out[f"{backend} {precision}"] = str(err)
        for rival in options.rivals:
            if find_spec("torch") is None or find_spec("onnx") is None:
                results.left_out[rival] = (
                    "torch or onnx is not installed: pip install 'samus-edge[export]'"
                )
                continue
            from samus_edge.benchmarking.torch_subject import TorchSubject

            compiled = rival == "torch-compile"
            # Where there is a GPU, what competes with TensorRT is half precision.
            for precision in ("fp32", "fp16") if _torch_has_gpu() else ("fp32",):
                on_step(f"opening {rival} {precision}{', which compiles' if compiled else ''}")
                try:
                    opened.append(
                        TorchSubject(
                            bundle,
                            workload,
                            precision=precision,
                            compiled=compiled,
                            threads=threads,
                        )
                    )
                except SamusEdgeError as err:
                    results.left_out[f"{rival} {precision}"] = str(err)
        if not opened:
            why = " ".join(f"{name}: {reason}" for name, reason in results.left_out.items())
            raise BackendError(f"there is nothing to benchmark. {why}")
    except BaseException:
        for subject in opened:
            subject.close()
        raise
    return opened


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


def _torch_has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _add_roofline(
    results: BenchResults, bundle: Bundle, workload: Workload, threads: int, on_gpu: bool
) -> None:
    if find_spec("onnx") is None:
        results.left_out["roofline"] = "onnx is not installed: pip install 'samus-edge[export]'"
        return
    results.work = work_of_bundle(bundle, workload)
    ceilings: dict[str, Ceiling] = {"cpu fp32": cpu_ceiling(threads)}
    if on_gpu:
        on_device = cuda_ceilings()
        ceilings |= {f"gpu {name}": ceiling for name, ceiling in on_device.items()}
        if not on_device:
            results.left_out["roofline of the GPU"] = "torch with CUDA is not installed"
    results.ceilings = ceilings
