"""OpenVINO beside ONNX Runtime on the same CPU: latency in turns, and Dice of the same lesions.

`python benchmarks/openvino_comparison.py` for latency; Dice as well, or with `--rounds 0` alone, by
`--data Dataset_BUSI_with_GT --split busi_split_v1.json`.

OpenVINO computes in float32 and, where the CPU has it, bfloat16. The encoder is timed as the
runtime compiles it, and compiled for any size and for this one alone. LiteMedSAM, on ONNX Runtime,
takes its turns as well (`cpu_latency.py` says what it needs).
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from cpu_latency import EXAMPLES, IMAGE, open_rivals
from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.bench_results import rows_of
from samus_edge.benchmarking.runtime_subject import RuntimeSubject
from samus_edge.benchmarking.subject import Stage, Subject, Workload
from samus_edge.benchmarking.turns import time_in_turns
from samus_edge.cli.console import progress_bar
from samus_edge.cli.options import BundlePath, PrecisionName
from samus_edge.data.case import UltrasoundCase
from samus_edge.data.prompt_protocol import STANDARD_PROTOCOLS
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.runtime import Bundle, Segmenter, read_image
from samus_edge.runtime.backends.backend import Backend
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.backends.openvino_backend import OpenVinoBackend, load_openvino
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER


def encoder_of_shape(
    bundle: Bundle, workload: Workload, threads: int, precision: str, shape: list[int]
) -> Stage:
    """The image encoder, compiled for frames of that shape; -1 for a size that may vary."""
    core = load_openvino().Core()
    model = core.read_model(bundle.read_graph(IMAGE_ENCODER))
    model.reshape(shape)
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return Stage(IMAGE_ENCODER, 1, partial(request.infer, {"image": workload.frames(1)}))


def latencies(
    bundle: Bundle,
    precision: str,
    backends: dict[str, Backend],
    rounds: int,
    threads: int,
    has_rival: bool,
) -> list[dict[str, Any]]:
    """Median and 90th percentile of each, milliseconds, and the ratio of medians to the first."""
    box = json.loads((EXAMPLES / "prompts.json").read_text())[IMAGE]
    workload = Workload(read_image(EXAMPLES / IMAGE), box, batches=(1,), prompts=(1, 4))
    subjects: list[Subject] = [
        RuntimeSubject(bundle, backend, precision, workload, label=name)
        for name, backend in backends.items()
    ]
    for name in (name for name in backends if name.startswith("OpenVINO") and "+" not in name):
        for title, shape in (
            ("any size", [-1, -1, -1]),
            ("one size", [1, *workload.original_hw]),
        ):
            kind = name.split()[-1]
            stage = encoder_of_shape(bundle, workload, threads, kind, shape)
            subjects.append(Subject(f"{name}, {title}", [stage]))
    if has_rival:
        subjects += open_rivals(workload, threads)[0][:1]
    rows = rows_of(time_in_turns(subjects, rounds=rounds, runs=5))
    return [
        {
            "subject": row.subject,
            "graph": row.stage,
            "items": row.items,
            "p50_ms": round(row.latency.p50, 2),
            "p90_ms": round(row.latency.p90, 2),
            "times_as_long_as_onnxruntime": None
            if row.ratio is None
            else round(row.ratio.value, 3),
        }
        for row in rows
    ]


def dice_by_lesion(
    bundle: Bundle, precision: str, backend: Backend, cases: list[UltrasoundCase]
) -> dict[str, dict[str, float]]:
    """Dice of every lesion, by prompt."""
    with (
        Segmenter(bundle, backend, precision) as segmenter,
        progress_bar("evaluating", len(cases)) as bar,
    ):
        report = evaluate(
            segmenter,
            cases,
            protocols=STANDARD_PROTOCOLS,
            on_case=lambda case: bar.update(advance=1),
        )
    found: dict[str, dict[str, float]] = {}
    for score in report.scores:
        found.setdefault(score.prompt, {})[f"{score.key} {score.instance}"] = score.dice
    return found


def dice_drops(scores: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Points of Dice that each loses against the first: mean, and worst lesion."""
    reference, *others = scores
    rows = []
    for name in others:
        for prompt, mine in scores[name].items():
            drops = {
                lesion: 100 * (value - mine[lesion])
                for lesion, value in scores[reference][prompt].items()
            }
            worst = max(drops, key=lambda lesion: drops[lesion])
            rows.append(
                {
                    "subject": name,
                    "prompt": prompt,
                    "lesions": len(drops),
                    "dice": round(float(np.mean(list(mine.values()))), 5),
                    "mean_drop_points": round(float(np.mean(list(drops.values()))), 3),
                    "worst_drop_points": round(drops[worst], 2),
                    "worst_lesion": worst,
                }
            )
    return rows


def command(
    data: Annotated[
        Path | None, typer.Option(envvar="SAMUS_EDGE_BUSI", help="BUSI, for Dice.", exists=True)
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="JSON file with its subsets.", exists=True)
    ] = None,
    bundle: BundlePath = None,
    precision: PrecisionName = "auto",
    subset: recipe.Subset = "test",
    limit: recipe.Limit = None,
    threads: recipe.Threads = 2,
    rounds: Annotated[int, typer.Option(min=0, help="Turns of each; 0 times nothing.")] = 10,
    compare: Annotated[bool, typer.Option(help="Time LiteMedSAM in the same run.")] = True,
    output: recipe.Output = None,
) -> None:
    """Compare OpenVINO with ONNX Runtime on this CPU."""
    opened = Bundle.open(bundle)
    backends: dict[str, Backend] = {"ONNX Runtime": OnnxRuntimeBackend(threads)}
    has_bf16 = "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for kind in ("f32", "bf16+f32", "bf16") if has_bf16 else ("f32",):
        backends[f"OpenVINO {kind}"] = OpenVinoBackend(threads, precision=kind)
    document: dict[str, Any] = {"bundle": opened.manifest.name, "precision": precision}
    if rounds:
        timed = latencies(opened, precision, backends, rounds, threads, compare)
        recipe.print_rows(f"{opened.manifest.name}, {precision}", timed)
        document |= {"threads": threads, "rounds": rounds, "latency": timed}
    if data is not None and split is not None:
        cases = recipe.lesion_cases(data, split, subset, limit)
        scores = {
            name: dice_by_lesion(opened, precision, backend, cases)
            for name, backend in backends.items()
        }
        drops = dice_drops(scores)
        recipe.print_rows(f"Dice, {len(cases)} images of {subset}", drops)
        document |= {"subset": subset, "images": len(cases), "dice": drops}
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
