"""Ways to quantise the image encoder, on the same frames: ours, ONNX Runtime's, NVIDIA ModelOpt's.

`python benchmarks/int8_comparison.py --data Dataset_BUSI_with_GT --split busi_split_v1.json`

ModelOpt pins other versions of onnx, so it has an environment of its own (`pip install
torch==2.13.0 'nvidia-modelopt[onnx]'`), named with `--modelopt-python`; without it its rows are
left out. All are calibrated on training frames and measured on the validation subset, with the
bundle's own mask decoder. Ours quantise every block that the recipe allows: the Dice budget of
`samus-edge calibrate` is not used. ONNX Runtime's and ModelOpt's choose their own nodes.
"""

import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import onnx
import typer
from onnx import ModelProto

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.subject import IMAGE_ENCODER, Stage, Subject, cpu_session
from samus_edge.benchmarking.turns import Latency, time_in_turns
from samus_edge.calibration.activation_statistics import (
    METHODS,
    RangeMethod,
    measure_activations,
    select_range,
)
from samus_edge.calibration.half_precision import float_tensors, nodes_to_keep, to_half_precision
from samus_edge.calibration.quantisation import RECIPES, quantisable_nodes, quantise
from samus_edge.cli.options import BundlePath
from samus_edge.data.dataset import load_subsets
from samus_edge.errors import BackendError
from samus_edge.export.weight_storage import expand_weights
from samus_edge.runtime import Bundle
from samus_edge.runtime.backends.tensorrt.engine_build import build_engine, image_encoder_profile
from samus_edge.runtime.backends.tensorrt.tensorrt_library import find_tensorrt
from samus_edge.verification.comparison import MaskComparison
from samus_edge.verification.frames import PromptedFrame, frames_of_cases

SEED = 0
MODELOPT_SIZE_WH = (640, 480)
"""ModelOpt takes calibration frames as one array: they are resized to this."""
MODELOPT_WAYS = (("max", "fp32"), ("entropy", "fp32"), ("max", "fp16"))
"""Its calibration method, and in what everything else computes; fp16 is its default."""
COMPUTE_CAPABILITY = "8.9"


def our_graphs(encoder: ModelProto, frames: list[PromptedFrame]) -> dict[str, ModelProto]:
    """fp16, and both int8 recipes by all methods."""
    samples = [{"image": frame.image[None]} for frame in frames]
    given = {item.name for item in (*encoder.graph.input, *encoder.graph.initializer)}
    ranges = measure_activations(
        encoder, sorted(float_tensors(encoder) - given), samples, histograms=False
    )
    largest = {name: each.max_abs for name, each in ranges.items()}
    kept = [node.name for node in nodes_to_keep(encoder, largest)]
    graphs = {"fp16": to_half_precision(encoder, kept)}
    for way in RECIPES.values():
        candidates = quantisable_nodes(encoder, way)
        statistics = measure_activations(encoder, sorted(set(candidates.values())), samples)
        for method in METHODS:
            chosen = {
                name: select_range(each, RangeMethod(method)) for name, each in statistics.items()
            }
            graph = quantise(encoder, list(candidates), chosen, way)
            if way.half_precision:
                graph = to_half_precision(graph, kept)
            graphs[f"{way.name}, {method}"] = graph
    return graphs


def onnxruntime_graph(encoder: ModelProto, frames: list[PromptedFrame]) -> ModelProto:
    """ONNX Runtime's static quantisation with its defaults for CPUs, per channel."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Frames(CalibrationDataReader):  # type: ignore[misc]  # untyped
        """The calibration frames, one after the other, then None."""

        rest = iter([{"image": frame.image[None]} for frame in frames])

        def get_next(self) -> Any:
            return next(self.rest, None)

    preprocessing = [n.name for n in encoder.graph.node if n.name.startswith("preprocessing/")]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(encoder, str(source))
        quantize_static(
            *(str(source), str(target), Frames()),
            per_channel=True,
            nodes_to_exclude=preprocessing,
        )
        return onnx.load(str(target))


def modelopt_graph(
    python: Path, encoder: ModelProto, frames: list[PromptedFrame], method: str, rest: str
) -> ModelProto:
    """ModelOpt's int8 quantisation, run in its own environment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(encoder, str(folder / "float.onnx"))
        images = [cv2.resize(frame.image, MODELOPT_SIZE_WH) for frame in frames]
        np.savez(folder / "frames.npz", image=np.stack(images))
        command = [
            *(str(python), "-m", "modelopt.onnx.quantization", "--quantize_mode", "int8"),
            *("--onnx_path", "float.onnx", "--output_path", "int8.onnx"),
            *("--calibration_data_path", "frames.npz", "--calibration_eps", "cpu"),
            *("--calibration_method", method, "--high_precision_dtype", rest),
        ]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        return onnx.load(str(folder / "int8.onnx"))


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


def quantised_nodes(graph: ModelProto) -> int:
    """Products that read a dequantised tensor, behind a cast as well."""
    dequantised: set[str] = set()
    for node in graph.graph.node:  # in the order in which they run
        cast = node.op_type == "Cast" and node.input[0] in dequantised
        if cast or node.op_type == "DequantizeLinear":
            dequantised.add(node.output[0])
    products = [n for n in graph.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return sum(node.input[0] in dequantised for node in products)


def command(
    data: recipe.BusiFolder,
    split: recipe.BusiSplit,
    bundle: BundlePath = None,
    modelopt_python: Annotated[
        Path | None, typer.Option(help="Python of an environment with ModelOpt.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to calibrate on.")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="Frames to measure on.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each graph gets its turn.")] = 12,
    output: recipe.Output = None,
) -> None:
    """Compare ways to quantise the image encoder."""
    opened = Bundle.open(bundle)
    encoder = onnx.load_from_string(opened.read_graph(IMAGE_ENCODER))
    expand_weights(encoder)
    del encoder.metadata_props[:]
    subsets = load_subsets(data, split, names=("train", "val"))
    calibrating = frames_of_cases(subsets.train, frames, SEED)
    measured_on = frames_of_cases(subsets.val, limit or len(subsets.val), SEED)
    graphs = {"fp32": encoder, **our_graphs(encoder, calibrating)}
    graphs["ONNX Runtime, minmax"] = onnxruntime_graph(encoder, calibrating)
    if modelopt_python is not None:
        for method, rest in MODELOPT_WAYS:
            graphs[f"ModelOpt, {method}, rest {rest}"] = modelopt_graph(
                modelopt_python, encoder, calibrating, method, rest
            )
    feeds = {"image": measured_on[0].image[None]}
    subjects = []
    for name, graph in graphs.items():
        run = partial(cpu_session(graph.SerializeToString(), 2).run, None, feeds)
        subjects.append(Subject(name, [Stage(IMAGE_ENCODER, 1, run)]))
    timed = time_in_turns(subjects, rounds=rounds, runs=4)
    times = {each.subject.name: Latency.of(each.milliseconds).p50 for each in timed}
    comparison = MaskComparison(opened, measured_on)
    rows: dict[str, dict[str, Any]] = {}
    for name, graph in graphs.items():
        print(f"measuring {name}", flush=True)
        agreement = comparison.compare(graph)
        rows[name] = {
            "quantised_nodes": quantised_nodes(graph),
            "logit_error": round(agreement.logit_error, 4),
            "mask_dice": round(agreement.mask_dice, 5),
            "dice_drop": round(agreement.dice_drop, 3),
            "bytes": graph.ByteSize(),
            "engine_mb": "not for TensorRT" if "cpu" in name else engine_mb(graph),
            "encoder_ms": round(times[name], 2),
            "time_ratio": round(times[name] / times["fp32"], 3),
        }
    recipe.print_rows(opened.manifest.name, ({"way": name, **row} for name, row in rows.items()))
    document = {
        "calibrated_on": {"subset": "train", "frames": len(calibrating), "seed": SEED},
        "measured_on": {"subset": "val", "frames": len(measured_on)},
        "bundle": opened.manifest.name,
        "engine": f"TensorRT-RTX for {COMPUTE_CAPABILITY}",
        "rows": rows,
    }
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
