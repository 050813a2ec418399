"""Everything that needs a GPU, in one run: engines, their checks, speed, 10,000 frames; beside
torch.

Run it on a machine with an NVIDIA GPU, in the development environment with TensorRT or
TensorRT-RTX: `python benchmarks/gpu.py`. It takes less than eight minutes and writes
`benchmarks/results/gpu.json`. A step that fails is recorded with its message, and the next one
begins; where there is no GPU nothing is measured, and the exit code is 1.

`vit_b` has random weights: speed does not need trained ones. int8 ranges are from the eight frames
that are installed with the runtime, enough for speed, not for accuracy.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from samus_edge.benchmarking.bench_results import BenchResults, rows_of
from samus_edge.benchmarking.bench_run import (
    BenchOptions,
    open_runtime,
    run_bench,
    write_results,
)
from samus_edge.benchmarking.planner import cuda_ceilings, work_of_bundle
from samus_edge.benchmarking.runtime_subject import RuntimeSubject
from samus_edge.benchmarking.subject import Workload
from samus_edge.benchmarking.turns import soak, time_in_turns
from samus_edge.errors import SamusEdgeError
from samus_edge.jobs.doctor import diagnose
from samus_edge.runtime.backends.backend_selection import select_backend
from samus_edge.runtime.backends.gpu.find_device import list_gpus
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions, ShapeRange
from samus_edge.runtime.backends.tensorrt.engine_check import compare_predictors
from samus_edge.runtime.backends.tensorrt.tensorrt_backend import (
    TensorRTBackend,
    TensorRTOptions,
)
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.check_frame import FOLDER as CHECK_FRAMES
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.segmenter import Segmenter

RESULTS = Path(__file__).resolve().parent / "results"
FRAME_HW = (512, 640)
PRECISIONS = ("fp32", "fp16", "int8")
GPU_BACKENDS = ("tensorrt", "onnxruntime-cuda")
VIT_BATCH = 8
FRAMES = 10_000
MODEL_TARGET_MS, COMPILE_TARGET, CEILING_TARGET = 1.5, 1.5, 0.4


@dataclass
class Steps:
    """Steps of the run, each with its result or its failure.

    Attributes:
        console: where progress goes.
        results: by step; what the step gave, its seconds, or the message of its failure.
    """

    console: Console
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, name: str, work: Callable[[], object]) -> bool:
        """Run a step; says whether it succeeded."""
        self.console.print(f"{name} ...", highlight=False)
        begun = time.perf_counter()
        try:
            outcome: dict[str, Any] = {"result": work()}
        # A broken driver or library may raise anything; the other steps are still wanted.
        except Exception as err:  # noqa: BLE001
            outcome = {"failed": f"{type(err).__name__}: {err}"}
            self.console.print(outcome["failed"], style="red", markup=False)
        outcome["seconds"] = round(time.perf_counter() - begun, 1)
        self.results[name] = outcome
        return "failed" not in outcome


def calibrated_bundle(folder: Path) -> Path:
    """The default bundle in all precisions."""
    out = folder / "tiny"
    arguments = [argument for name in PRECISIONS[1:] for argument in ("--precision", name)]
    command = [
        sys.executable,
        "-m",
        "samus_edge.cli.app",
        "calibrate",
        "--out",
        str(out),
        *arguments,
    ]
    command += ["--frames", str(CHECK_FRAMES), "--count", "8", "--allow-failing"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def vit_b_bundle(folder: Path) -> Path:
    """`vit_b` with random weights, in fp32 and fp16."""
    import torch

    from samus_edge.export.bundle_writer import BundleText, write_bundle
    from samus_edge.modeling.model_parts import samus_hf_vit

    torch.manual_seed(0)
    model = samus_hf_vit().eval()
    frames = [frame.image for frame in load_check_frames()[:1]]
    text = BundleText.of(model)
    write_bundle(model, folder / "fp32", text=text, weights_sha256="0" * 64, frames=frames)
    out = folder / "vit_b"
    command = [sys.executable, "-I", "-m", "samus_edge.cli.app", "calibrate", "--precision", "fp16"]
    command += ["--bundle", str(folder / "fp32"), "--out", str(out), "--frames", str(CHECK_FRAMES)]
    subprocess.run([*command, "--allow-failing"], check=True, stdout=subprocess.DEVNULL)
    return out


def check(bundle: Bundle, backend: str, precision: str) -> dict[str, object]:
    """Compare a backend with ONNX Runtime on the CPU; engines are built for it."""
    if backend == "tensorrt":
        engines = TensorRTBackend()
        with Segmenter(bundle, engines, precision) as segmenter:
            found = engines.engine_check(segmenter, segmenter.reference)
    else:
        with (
            Segmenter(bundle, select_backend(backend), precision) as segmenter,
            Segmenter(bundle, OnnxRuntimeBackend(), precision) as reference,
        ):
            found = compare_predictors(segmenter, reference, load_check_frames())
    return {**asdict(found), "problems": list(found.problems)}


def cuda_graphs(bundle: Bundle, precision: str) -> list[dict[str, object]]:
    """The same engines with and without CUDA graphs, in turns."""
    workload = Workload.of(np.zeros(FRAME_HW, np.uint8))
    engine = EngineOptions(frames=ShapeRange.fixed(FRAME_HW))
    subjects = [
        RuntimeSubject(
            bundle,
            TensorRTBackend(TensorRTOptions(engine=engine, use_cuda_graphs=used)),
            precision,
            workload,
            label=f"CUDA graphs {'on' if used else 'off'}",
        )
        for used in (True, False)
    ]
    try:
        return [row.to_json() for row in rows_of(time_in_turns(subjects, rounds=20, runs=20))]
    finally:
        for subject in subjects:
            subject.close()


def many_frames(bundle: Bundle, backend: str, precision: str, count: int) -> dict[str, object]:
    """Frames in a row, on one backend."""
    with Segmenter(bundle, select_backend(backend), precision) as segmenter:
        return soak(segmenter, load_check_frames(), count).to_json()


def bench(bundle: Bundle, backends: tuple[str, ...], quick: bool) -> BenchResults:
    """All precisions of the backends that work, beside torch and torch.compile."""
    frame = load_check_frames(FRAME_HW)[0].image
    workload = Workload.of(frame, batches=(1,), prompts=(1, 4, 16))
    offered = ["fp32", *bundle.manifest.precisions]
    options = BenchOptions(
        backends=backends,
        precisions=tuple(name for name in PRECISIONS if name in offered),
        rounds=3 if quick else 20,
        runs=3 if quick else 20,
    )
    return run_bench(bundle, workload, options)


def vit_b_batch(bundle: Bundle, backend: str) -> dict[str, object]:
    """What `vit_b`'s image encoder reaches of the measured ceiling at batch 8, fp16."""
    frame = load_check_frames((256, 256))[0].image
    workload = Workload.of(frame, batches=(1, VIT_BATCH))
    flop = work_of_bundle(bundle, workload)["image_encoder"].flop
    subject = open_runtime(bundle, backend, "fp16", workload, threads=4)
    try:
        rows = rows_of(time_in_turns([subject], rounds=10, runs=10))
    finally:
        subject.close()
    ceiling = cuda_ceilings()["fp16"].gflop_per_s
    (row,) = (row for row in rows if row.items == VIT_BATCH)
    milliseconds = (row.device or row.latency).p50
    reached = flop * VIT_BATCH / 1e9 / (milliseconds / 1e3)
    return {
        "rows": [each.to_json() for each in rows],
        "milliseconds": milliseconds,
        "gflop_per_s": reached,
        "ceiling_gflop_per_s": ceiling,
        "reached": reached / ceiling,
        "target": CEILING_TARGET,
    }


def targets(results: BenchResults) -> dict[str, object]:
    """Encode and decode by the device's clock, fp16, beside the targets."""

    def device_ms(subject: str) -> float:
        rows = [row for row in results.rows if row.subject == subject and row.items == 1]
        times = {row.stage: row.device.p50 for row in rows if row.device is not None}
        return times["image_encoder"] + times["mask_decoder"]

    ours, rival = device_ms("tensorrt fp16"), device_ms("torch-compile fp16")
    return {
        "tensorrt_fp16_encode_and_decode_ms": ours,
        "target_ms": MODEL_TARGET_MS,
        "torch_compile_fp16_over_ours": rival / ours,
        "target_ratio": COMPILE_TARGET,
    }


def command(
    output: Annotated[Path, typer.Option(help="The result file.")] = RESULTS / "gpu.json",
    frames: Annotated[int, typer.Option(min=1, help="Frames in a row.")] = FRAMES,
    quick: Annotated[bool, typer.Option("--quick", help="Few runs: to try the script.")] = False,
    vit_b: Annotated[bool, typer.Option(help="Also vit_b, which takes minutes to export.")] = True,
) -> None:
    """Measure everything that needs a GPU."""
    console = Console()
    try:
        list_gpus()
    except SamusEdgeError as err:
        console.print(f"no GPU to measure: {err}", style="red", markup=False)
        raise typer.Exit(1) from err
    steps = Steps(console)
    measured: list[BenchResults] = []
    working: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps.run("doctor", lambda: diagnose().to_json())
        calibrated = steps.run("calibrate", lambda: str(calibrated_bundle(folder)))
        bundle = Bundle.open(folder / "tiny" if calibrated else None)
        for backend in GPU_BACKENDS:
            for precision in ("fp32", *bundle.manifest.precisions):
                title = f"check {backend} {precision}"
                if steps.run(title, lambda b=backend, p=precision: check(bundle, b, p)):  # type: ignore[misc]
                    working += [backend] if precision == "fp32" else []
        if "tensorrt" in working:
            precision = "fp16" if calibrated else "fp32"
            steps.run("cuda graphs", lambda: cuda_graphs(bundle, precision))
        for backend in working:
            title = f"{frames} frames on {backend}"
            steps.run(title, lambda b=backend: many_frames(bundle, b, "fp32", frames))  # type: ignore[misc]

        def measure() -> object:
            measured.append(bench(bundle, (*working, "onnxruntime"), quick))
            return measured[0].to_json()

        if steps.run("bench", measure) and "tensorrt" in working:
            steps.run("targets", lambda: targets(measured[0]))
        if vit_b and working and steps.run("export vit_b", lambda: str(vit_b_bundle(folder))):
            vit = Bundle.open(folder / "vit_b")
            steps.run("check vit_b fp16", lambda: check(vit, working[0], "fp16"))
            steps.run("vit_b at batch 8", lambda: vit_b_batch(vit, working[0]))
    write_results(output, {"benchmark": "gpu", "steps": steps.results})


if __name__ == "__main__":
    typer.run(command)
