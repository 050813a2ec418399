"""Ways to quantise the image encoder, on the same frames: ours, ONNX Runtime's, NVIDIA ModelOpt's.

Run it in the development environment, with BUSI and its split:
`python benchmarks/int8_comparison.py --data Dataset_BUSI_with_GT --split busi_split_v1.json`.
Writes `benchmarks/results/int8_comparison.json`. ModelOpt pins other versions of onnx, so it has an
environment of its own (`pip install torch==2.13.0 'nvidia-modelopt[onnx]'`), named with
`--modelopt-python`; without it its rows are left out.

All are calibrated on 32 training frames and measured on the validation subset, with the bundle's
own mask decoder. Ours quantise every block that the recipe allows: the Dice budget of `samus-edge
calibrate` is not used. ONNX Runtime's and ModelOpt's choose their own nodes.
"""

import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import typer
from onnx import ModelProto
from rich.console import Console
from rich.table import Table

from samus_edge.benchmarking.bench_run import write_results
from samus_edge.benchmarking.turns import time_turn
from samus_edge.calibration.activation_statistics import (
    METHODS,
    RangeMethod,
    measure_activations,
    select_range,
)
from samus_edge.calibration.half_precision import float_tensors, nodes_to_keep, to_half_precision
from samus_edge.calibration.quantisation import RECIPES, quantisable_nodes, quantise
from samus_edge.data.dataset import load_subsets
from samus_edge.errors import BackendError
from samus_edge.export.weight_storage import expand_weights
from samus_edge.runtime.backends.onnxruntime_backend import ort
from samus_edge.runtime.backends.tensorrt.engine_build import build_engine, image_encoder_profile
from samus_edge.runtime.backends.tensorrt.tensorrt_library import find_tensorrt
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER
from samus_edge.verification.comparison import MaskComparison
from samus_edge.verification.frames import PromptedFrame, frames_of_cases

RESULTS = Path(__file__).resolve().parent / "results"
FRAMES, SEED = 32, 0
MODELOPT_SIZE_HW = (480, 640)
"""ModelOpt takes calibration frames as one array: they are resized to this."""
MODELOPT_WAYS = (("max", "fp32"), ("entropy", "fp32"), ("max", "fp16"))
"""Its calibration method, and in what everything else computes; fp16 is its default."""
COMPUTE_CAPABILITY = "8.9"
ROUNDS, RUNS = 12, 4


def our_graphs(encoder: ModelProto, frames: list[PromptedFrame]) -> dict[str, ModelProto]:
    """Both recipes by all methods."""
    samples = [{"image": frame.image[None]} for frame in frames]
    given = {item.name for item in (*encoder.graph.input, *encoder.graph.initializer)}
    ranges = measure_activations(
        encoder, sorted(float_tensors(encoder) - given), samples, histograms=False
    )
    kept = nodes_to_keep(encoder, {name: each.max_abs for name, each in ranges.items()})
    graphs = {"fp16": to_half_precision(encoder, [node.name for node in kept])}
    for recipe in RECIPES.values():
        candidates = quantisable_nodes(encoder, recipe)
        tensors = list(dict.fromkeys(candidates.values()))
        statistics = measure_activations(encoder, tensors, samples)
        for method in METHODS:
            chosen = {
                name: select_range(each, RangeMethod(method)) for name, each in statistics.items()
            }
            graph = quantise(encoder, list(candidates), chosen, recipe)
            if recipe.half_precision:
                graph = to_half_precision(graph, [node.name for node in kept])
            graphs[f"{recipe.name}, {method}"] = graph
    return graphs


def onnxruntime_graph(encoder: ModelProto, frames: list[PromptedFrame]) -> ModelProto:
    """ONNX Runtime's static quantisation with its defaults for CPUs, per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Frames(CalibrationDataReader):  # type: ignore[misc]  # untyped
        """The calibration frames, one after the other."""

        def __init__(self) -> None:
            self.rest = iter(frames)

        def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
            """The next frame; None after the last."""
            frame = next(self.rest, None)
            return None if frame is None else {"image": frame.image[None]}

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(encoder, str(source))
        quantize_static(
            str(source),
            str(target),
            Frames(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[
                node.name for node in encoder.graph.node if node.name.startswith("preprocessing/")
            ],
        )
        return onnx.load(str(target))


def modelopt_graph(
    python: Path, encoder: ModelProto, frames: list[PromptedFrame], method: str, rest: str
) -> ModelProto:
    """ModelOpt's int8 quantisation, run in its own environment.

    Raises:
        RuntimeError: with the end of its output, if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(encoder, str(source))
        height, width = MODELOPT_SIZE_HW
        images = [cv2.resize(frame.image, (width, height)) for frame in frames]
        np.savez(Path(folder) / "frames.npz", image=np.stack(images))
        command = [
            *(str(python), "-m", "modelopt.onnx.quantization", "--quantize_mode", "int8"),
            *("--onnx_path", str(source), "--output_path", str(target)),
            *("--calibration_data_path", str(Path(folder) / "frames.npz")),
            *("--calibration_method", method, "--calibration_eps", "cpu"),
            *("--high_precision_dtype", rest),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"ModelOpt failed: {(done.stdout + done.stderr)[-2000:]}")
        return onnx.load(str(target))


def latencies_ms(graphs: dict[str, ModelProto], frame: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Median wall time of each graph on two threads, in turns; milliseconds."""
    sessions = {}
    for name, graph in graphs.items():
        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        sessions[name] = ort.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            times[name] += time_turn(partial(session.run, None, {"image": frame[None]}), RUNS)
    return {name: float(np.median(values)) for name, values in times.items()}


def engine_mb(graph: ModelProto) -> float | str:
    """Size of TensorRT-RTX's engine, MB; or the first line of why there is none."""
    try:
        engine = build_engine(
            graph.SerializeToString(),
            library=find_tensorrt("tensorrt_rtx"),
            name=IMAGE_ENCODER,
            profiles=[image_encoder_profile((64, 64), (480, 640), (1200, 1920))],
            compute_capability=COMPUTE_CAPABILITY,
        )
    except BackendError as err:
        return str(err).splitlines()[0][:160]
    return round(len(engine) / 1e6, 1)


def command(
    data: Annotated[Path, typer.Option(help="BUSI.", exists=True)],
    split: Annotated[Path, typer.Option(help="Its split.", exists=True)],
    bundle: Annotated[Path | None, typer.Option(help="The default one if left out.")] = None,
    modelopt_python: Annotated[
        Path | None, typer.Option(help="Python of an environment with ModelOpt.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The result file.")] = (
        RESULTS / "int8_comparison.json"
    ),
) -> None:
    """Compare ways to quantise the image encoder."""
    console = Console()
    opened = Bundle.open(bundle)
    encoder = onnx.load_from_string(opened.read_graph(IMAGE_ENCODER))
    expand_weights(encoder)
    del encoder.metadata_props[:]
    subsets = load_subsets(data, split, names=("train", "val"))
    frames = frames_of_cases(subsets.train, FRAMES, SEED)
    measured_on = frames_of_cases(subsets.val, len(subsets.val), SEED)
    with console.status("quantising") as status:
        graphs = {"fp32": encoder, **our_graphs(encoder, frames)}
        graphs["ONNX Runtime, minmax"] = onnxruntime_graph(encoder, frames)
        if modelopt_python is not None:
            for method, rest in MODELOPT_WAYS:
                status.update(f"ModelOpt, {method}")
                graphs[f"ModelOpt, {method}, rest {rest}"] = modelopt_graph(
                    modelopt_python, encoder, frames, method, rest
                )
        comparison = MaskComparison(opened, measured_on)
        rows: dict[str, dict[str, Any]] = {}
        for name, graph in graphs.items():
            status.update(f"measuring {name}")
            agreement = comparison.compare(graph)
            rows[name] = {
                "quantised_nodes": _quantised_nodes(graph),
                "logit_error": round(agreement.logit_error, 4),
                "mask_dice": round(agreement.mask_dice, 5),
                "dice_drop": round(agreement.dice_drop, 3),
                "bytes": graph.ByteSize(),
                "engine_mb": "not for TensorRT" if "cpu" in name else engine_mb(graph),
            }
        status.update("timing")
        times = latencies_ms(graphs, measured_on[0].image)
    for name, row in rows.items():
        row["encoder_ms"] = round(times[name], 2)
        row["time_ratio"] = round(times[name] / times["fp32"], 3)
    _print(console, rows)
    document = {
        "benchmark": "int8_comparison",
        "calibrated_on": {"subset": "train", "frames": len(frames), "seed": SEED},
        "measured_on": {"subset": "val", "frames": len(measured_on)},
        "bundle": opened.manifest.name,
        "engine": f"{find_tensorrt('tensorrt_rtx')} for {COMPUTE_CAPABILITY}",
        "rows": rows,
    }
    write_results(output, document)


def _quantised_nodes(graph: ModelProto) -> int:
    """Products that read a dequantised tensor."""
    dequantised = {
        node.output[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"
    }
    while True:  # behind casts as well
        more = {
            node.output[0]
            for node in graph.graph.node
            if node.op_type == "Cast" and node.input[0] in dequantised
        }
        if more <= dequantised:
            break
        dequantised |= more
    return sum(
        node.op_type in ("Conv", "Gemm", "MatMul") and node.input[0] in dequantised
        for node in graph.graph.node
    )


def _print(console: Console, rows: dict[str, dict[str, Any]]) -> None:
    table = Table()
    for column in ("", "nodes", "logit error", "mask Dice", "Dice drop", "MB", "ms", "engine"):
        table.add_column(column)
    for name, row in rows.items():
        table.add_row(
            *(name, str(row["quantised_nodes"]), f"{row['logit_error']:.3f}"),
            *(f"{row['mask_dice']:.4f}", f"{row['dice_drop']:+.2f}", f"{row['bytes'] / 1e6:.1f}"),
            *(f"{row['encoder_ms']:.1f} ({row['time_ratio']:.2f})", str(row["engine_mb"])),
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(command)
