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
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.bench_results import BenchResults, rows_of
from samus_edge.benchmarking.bench_run import BenchOptions, open_runtime, run_bench
from samus_edge.benchmarking.planner import cuda_ceilings, work_of_bundle
from samus_edge.benchmarking.runtime_subject import RuntimeSubject
from samus_edge.benchmarking.subject import IMAGE_ENCODER, MASK_DECODER, Workload
from samus_edge.benchmarking.turns import soak, time_in_turns
from samus_edge.errors import SamusEdgeError
from samus_edge.jobs.doctor import diagnose
from samus_edge.runtime import Bundle, Segmenter
from samus_edge.runtime.backends.backend_selection import select_backend
from samus_edge.runtime.backends.gpu.find_device import list_gpus
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions, ShapeRange
from samus_edge.runtime.backends.tensorrt.engine_check import compare_predictors
from samus_edge.runtime.backends.tensorrt.tensorrt_backend import TensorRTBackend, TensorRTOptions
from samus_edge.runtime.bundle.check_frame import FOLDER as CHECK_FRAMES
from samus_edge.runtime.bundle.check_frame import load_check_frames

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
    calibrating = [*recipe.COMMAND, "calibrate", "--out", str(out), *chosen, *frames, *options]
    subprocess.run(calibrating, check=True, stdout=subprocess.DEVNULL)
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
    flop = work_of_bundle(bundle, workload)[IMAGE_ENCODER].flop
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
        "rows": [asdict(each) for each in rows],
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
        return times[IMAGE_ENCODER] + times[MASK_DECODER]

    ours, rival = device_ms("tensorrt fp16"), device_ms("torch-compile fp16")
    return {
        "tensorrt_fp16_encode_and_decode_ms": ours,
        "target_ms": MODEL_TARGET_MS,
        "torch_compile_fp16_over_ours": rival / ours,
        "target_ratio": COMPILE_TARGET,
    }


def command(
    output: recipe.Output = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames in a row.")] = FRAMES,
    quick: Annotated[bool, typer.Option("--quick", help="Few runs: to try the script.")] = False,
    vit_b: Annotated[bool, typer.Option(help="Also vit_b, which takes minutes to export.")] = True,
) -> None:
    """Measure everything that needs a GPU."""
    try:
        list_gpus()
    except SamusEdgeError as err:
        print(f"no GPU to measure: {err}")
        raise typer.Exit(1) from err
    steps = recipe.Steps()
    measured: list[BenchResults] = []
    working: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps.run("doctor", lambda: diagnose().to_json())
        calibrated = steps.run("calibrate", partial(calibrate, folder / "tiny", PRECISIONS[1:]))
        bundle = Bundle.open(folder / "tiny" if calibrated else None)
        for backend in GPU_BACKENDS:
            for precision in ("fp32", *bundle.manifest.precisions):
                checked = partial(check, bundle, backend, precision)
                if steps.run(f"check {backend} {precision}", checked):
                    working += [backend] if precision == "fp32" else []
        if "tensorrt" in working:
            precision = "fp16" if calibrated else "fp32"
            steps.run("cuda graphs", partial(cuda_graphs, bundle, precision))
        for backend in working:
            segmented = partial(many_frames, bundle, backend, "fp32", frames)
            steps.run(f"{frames} frames on {backend}", segmented)

        def measure() -> object:
            measured.append(bench(bundle, (*working, "onnxruntime"), quick))
            return measured[0].to_json()

        if steps.run("bench", measure) and "tensorrt" in working:
            steps.run("targets", lambda: targets(measured[0]))
        if vit_b and working and steps.run("export vit_b", partial(vit_b_bundle, folder)):
            vit = Bundle.open(folder / "vit_b")
            steps.run("check vit_b fp16", lambda: check(vit, working[0], "fp16"))
            steps.run("vit_b at batch 8", lambda: vit_b_batch(vit, working[0]))
    recipe.write_results(__file__, {"steps": steps.results}, output)


if __name__ == "__main__":
    typer.run(command)
