"""Everything that needs a GPU: the device layer, engines and their checks, speed beside torch.

`python benchmarks/gpu.py`, on a machine with an NVIDIA GPU and a CUDA binding; of PyTorch, onnx,
onnxruntime-gpu, TensorRT and TensorRT-RTX what is there is used, installed or beside on
PYTHONPATH, and the project itself is that of this checkout. Every step is a process of its own with
a time of its own, so that one that hangs or loses the GPU costs nothing but itself. The whole ends
after eight minutes; what was left is done by a second call, which repeats nothing that succeeded.
`benchmarks/results/gpu.json` is written after each step. Where there is no GPU nothing is measured,
and the exit code is 1.

`vit_b` has random weights: speed does not need trained ones. int8 ranges are from the eight frames
that are installed with the runtime, enough for speed, not for accuracy.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

if find_spec("samus_edge") is None:  # a bare machine: the checkout is not installed
    sys.path.insert(0, str(Path(__file__).parents[1]))

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.bench_results import BenchResults, rows_of
from samus_edge.benchmarking.bench_run import BenchOptions, open_runtime, run_bench
from samus_edge.benchmarking.device_checks import CHECKS
from samus_edge.benchmarking.runtime_subject import RuntimeSubject
from samus_edge.benchmarking.subject import Workload
from samus_edge.benchmarking.turns import soak, time_in_turns
from samus_edge.errors import SamusEdgeError
from samus_edge.jobs.doctor import diagnose
from samus_edge.runtime import Bundle, Segmenter
from samus_edge.runtime.backends.backend_selection import select_backend
from samus_edge.runtime.backends.gpu.device import Device
from samus_edge.runtime.backends.gpu.find_device import find_device, list_gpus
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions, ShapeRange
from samus_edge.runtime.backends.tensorrt.engine_check import compare_predictors
from samus_edge.runtime.backends.tensorrt.tensorrt_backend import TensorRTBackend, TensorRTOptions
from samus_edge.runtime.bundle.check_frame import FOLDER as CHECK_FRAMES
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MASK_DECODER

FRAME_HW = (512, 640)
PRECISIONS = ("fp32", "fp16", "int8")
GPU_BACKENDS = ("tensorrt", "onnxruntime-cuda")
VIT_BATCH = 8
FRAMES = 10_000
MODEL_TARGET_MS, COMPILE_TARGET, CEILING_TARGET = 1.5, 1.5, 0.4


def calibrate(out: Path, precisions: tuple[str, ...], *options: str) -> str:
    """Write a bundle with more precisions; the default one's unless options name another."""
    chosen = [argument for name in precisions for argument in ("--precision", name)]
    frames = ("--frames", str(CHECK_FRAMES), "--count", "8", "--allow-failing")
    shutil.rmtree(out, ignore_errors=True)  # what a step that was ended has left
    calibrating = [*recipe.COMMAND, "calibrate", "--out", str(out), *chosen, *frames, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(calibrating, check=True, stdout=subprocess.DEVNULL, env=environment)
    return str(out)


def vit_b_bundle(folder: Path) -> str:
    """`vit_b` with random weights, in fp32 and fp16."""
    import torch

    from samus_edge.export.bundle_writer import BundleText, write_bundle
    from samus_edge.modeling.model_parts import samus_hf_vit

    torch.manual_seed(0)
    model = samus_hf_vit().eval()
    frames = [frame.image for frame in load_check_frames()[:1]]
    text = BundleText.of(model)
    write_bundle(model, folder / "fp32", text=text, weights_sha256="0" * 64, frames=frames)
    return calibrate(folder / "vit_b", ("fp16",), "--bundle", str(folder / "fp32"))


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
    with ExitStack() as closing:
        subjects = []
        for used in (True, False):
            backend = TensorRTBackend(TensorRTOptions(engine=engine, use_cuda_graphs=used))
            label = f"CUDA graphs {'on' if used else 'off'}"
            subjects.append(RuntimeSubject(bundle, backend, precision, workload, label=label))
            closing.callback(subjects[-1].close)
        return [asdict(row) for row in rows_of(time_in_turns(subjects, rounds=20, runs=20))]


def many_frames(bundle: Bundle, backend: str, precision: str, count: int) -> dict[str, object]:
    """Frames in a row, on one backend."""
    with Segmenter(bundle, select_backend(backend), precision) as segmenter:
        return asdict(soak(segmenter, load_check_frames(), count))


def bench(bundle: Bundle, quick: bool) -> BenchResults:
    """All precisions of the backends that work here, beside torch and torch.compile, in turns."""
    frame = load_check_frames(FRAME_HW)[0].image
    workload = Workload.of(frame, batches=(1,), prompts=(1, 16))
    offered = ["fp32", *bundle.manifest.precisions]
    options = BenchOptions(
        precisions=tuple(name for name in PRECISIONS if name in offered),
        rounds=3 if quick else 20,
        runs=3 if quick else 20,
    )
    return run_bench(bundle, workload, options)


def half_precision_ceiling() -> float:
    """GFLOP/s of a large half-precision product by torch, the fastest of five."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    seconds = []
    for _ in range(6):  # the first warms up
        torch.cuda.synchronize()
        begun = time.perf_counter()
        torch.matmul(a, b)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 2 * 8192**3 / 1e9 / min(seconds)


def vit_b_batch(bundle: Bundle, backend: str) -> dict[str, object]:
    """What `vit_b`'s image encoder reaches of the measured ceiling at batch 8, fp16."""
    import onnx

    from samus_edge.export.graph_cost import count_flop

    frame = load_check_frames((256, 256))[0].image
    workload = Workload.of(frame, batches=(1, VIT_BATCH))
    encoder = onnx.load_from_string(bundle.read_graph(IMAGE_ENCODER))
    flop = sum(count_flop(encoder, {"image": workload.frames(1)}).values())
    subject = open_runtime(bundle, backend, "fp16", workload, threads=4)
    try:
        rows = rows_of(time_in_turns([subject], rounds=10, runs=10))
    finally:
        subject.close()
    ceiling = half_precision_ceiling()
    (row,) = (row for row in rows if row.items == VIT_BATCH)
    milliseconds = (row.device or row.latency).p50
    reached = flop * VIT_BATCH / 1e9 / (milliseconds / 1e3)
    return {
        "rows": [asdict(each) for each in rows],
        "milliseconds": milliseconds,
        "gflop_per_s": reached,
        "ceiling_gflop_per_s": ceiling,
        "reached": reached / ceiling,
        "target": CEILING_TARGET,
    }


def targets(bench_result: dict[str, Any]) -> dict[str, object]:
    """Encode and decode by the device's clock, fp16, beside the targets."""

    def device_ms(subject: str) -> float:
        rows = [row for row in bench_result["results"] if row["subject"] == subject]
        times = {
            row["stage"]: row["device"]["p50"]
            for row in rows
            if row["items"] == 1 and row["device"] is not None
        }
        return float(times[IMAGE_ENCODER] + times[MASK_DECODER])

    ours, rival = device_ms("tensorrt fp16"), device_ms("torch-compile fp16")
    return {
        "tensorrt_fp16_encode_and_decode_ms": ours,
        "target_ms": MODEL_TARGET_MS,
        "torch_compile_fp16_over_ours": rival / ours,
        "target_ratio": COMPILE_TARGET,
    }


@dataclass(frozen=True)
class Step:
    """A part of the run.

    Attributes:
        seconds: Time after which it is ended.
        work: What it does, with the folder of the run and what the steps before it gave.
        needs: Steps that must have succeeded, "a|b" for either; it is left out where they have not.
    """

    seconds: int
    work: Callable[[Path, dict[str, Any]], object]
    needs: tuple[str, ...] = ()


def _bundle(folder: Path) -> Bundle:
    """The calibrated bundle, or the default one where calibration has failed."""
    calibrated = folder / "tiny"
    return Bundle.open(calibrated if (calibrated / "manifest.json").is_file() else None)


def _working(results: dict[str, Any]) -> tuple[str, ...]:
    return tuple(each for each in GPU_BACKENDS if "result" in results.get(f"check {each} fp32", {}))


def _working_precision(folder: Path) -> str:
    return "fp16" if "fp16" in _bundle(folder).manifest.precisions else "fp32"


def steps(frames: int, quick: bool) -> dict[str, Step]:
    """All parts of the run, in their order."""

    def on_device(checked: Callable[[Device], object], _: Path, __: object) -> object:
        return checked(find_device())

    def calibrating(precisions: tuple[str, ...], folder: Path, _: object) -> object:
        return calibrate(folder / "tiny", precisions)

    def checking(backend: str, precision: str, folder: Path, _: object) -> object:
        return check(_bundle(folder), backend, precision)

    def soaking(backend: str, folder: Path, _: object) -> object:
        return many_frames(_bundle(folder), backend, "fp32", frames)

    every = {"doctor": Step(60, lambda *_: diagnose().to_json())}
    for name, checked in CHECKS.items():
        every[f"device {name}"] = Step(40, partial(on_device, checked))
    any_backend = "|".join(f"check {backend} fp32" for backend in GPU_BACKENDS)
    calibrated = partial(calibrating, PRECISIONS[1:])
    for precision in PRECISIONS:
        if precision == PRECISIONS[1]:
            every["calibrate"] = Step(150, calibrated, (any_backend,))
        for backend in GPU_BACKENDS:
            seconds = 150 if backend == "tensorrt" else 60
            needs = () if precision == "fp32" else ("calibrate", f"check {backend} fp32")
            work = partial(checking, backend, precision)
            every[f"check {backend} {precision}"] = Step(seconds, work, needs)
    every["bench"] = Step(270, lambda folder, _: bench(_bundle(folder), quick).to_json())
    every["targets"] = Step(
        30, lambda _, results: targets(results["bench"]["result"]), ("bench", "check tensorrt fp16")
    )
    every["cuda graphs"] = Step(
        90,
        lambda folder, _: cuda_graphs(_bundle(folder), _working_precision(folder)),
        ("check tensorrt fp32",),
    )
    for backend in GPU_BACKENDS:
        work = partial(soaking, backend)
        every[f"{frames} frames on {backend}"] = Step(120, work, (f"check {backend} fp32",))
    every["export vit_b"] = Step(240, lambda folder, _: vit_b_bundle(folder), (any_backend,))
    every["vit_b at batch 8"] = Step(
        150,
        lambda folder, results: vit_b_batch(Bundle.open(folder / "vit_b"), _working(results)[0]),
        ("export vit_b",),
    )
    return every


def run_step(name: str, folder: Path, seconds: float, options: list[str]) -> dict[str, Any]:
    """Run a step in a process of its own, which finds what this one finds; its outcome."""
    outcome_file = folder / "outcome.json"
    outcome_file.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--step", name, "--work", str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait(seconds)
        outcome: dict[str, Any] = {"failed": f"the process ended with {code}"}
    except subprocess.TimeoutExpired:
        outcome = {"failed": f"not done after {seconds:.0f} seconds"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            process.wait()
    if outcome_file.is_file():
        outcome = json.loads(outcome_file.read_text("utf-8"))
    outcome["seconds"] = round(time.perf_counter() - begun, 1)
    return outcome


def command(
    output: recipe.Output = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames in a row.")] = FRAMES,
    quick: Annotated[bool, typer.Option("--quick", help="Few runs: to try the script.")] = False,
    only: Annotated[str, typer.Option(help="Steps whose name begins so. [default: all]")] = "",
    minutes: Annotated[float, typer.Option(min=0.1, help="After which it ends.")] = 8.0,
    work: Annotated[
        Path | None, typer.Option(help="Folder of bundles, for a second call. [default: in /tmp]")
    ] = None,
    step: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure everything that needs a GPU; a second call does what the first has left."""
    every = steps(frames, quick)
    path = output or Path(__file__).parent / "results" / "gpu.json"
    folder = Path(tempfile.gettempdir()) / "samus-edge-gpu" if work is None else work
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text("utf-8")).get("steps", {}) if path.is_file() else {}
    results = {name: outcome for name, outcome in before.items() if "result" in outcome}
    if step is not None:
        single = recipe.Steps()
        single.run(step, lambda: every[step].work(folder, results))
        (folder / "outcome.json").write_text(json.dumps(single.results[step]), "utf-8")
        return
    try:
        list_gpus()
    except SamusEdgeError as err:
        print(f"no GPU to measure: {err}")
        raise typer.Exit(1) from err
    end = time.monotonic() + 60 * minutes
    options = ["--output", str(path), "--frames", str(frames), *(["--quick"] if quick else [])]
    for name, each in every.items():
        if name in results or not name.startswith(only):
            continue
        missing = [
            needed
            for needed in each.needs
            if not any("result" in results.get(name, {}) for name in needed.split("|"))
        ]
        left = end - time.monotonic()
        if missing:
            outcome: object = {"left_out": f"needs {', '.join(missing)}"}
        elif left < min(each.seconds, 20):
            outcome = {"left_out": "no time was left; a second call does it"}
        else:
            outcome = run_step(name, folder, min(each.seconds, left), options)
        results[name] = outcome
        recipe.write_results(__file__, {"steps": results}, output)


if __name__ == "__main__":
    typer.run(command)
