"""How well and how fast a lesion is followed, on cines made from real frames by known motion; and a
soak.

Run it in the development environment: `python benchmarks/cine_tracking.py --data BUSI --split
split.json`. Writes `benchmarks/results/cine_tracking.json` and `docs/images/cine_tracking.png`.
`--soak 30` instead streams frames in real time for 30 minutes, and writes
`benchmarks/results/stream_soak.json`.

The true mask of every frame is known, since each cine is one BUSI image under motion that is known:
travel, turning, pressure, gain and new speckle in every frame; in the second kind the lesion fades
out of the plane and comes back. The box of the first frame is that around the true mask. The
ceiling is the model's Dice with the true box in every frame.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from samus_edge.benchmarking.bench_run import write_results
from samus_edge.benchmarking.subject import resident_bytes
from samus_edge.benchmarking.synthetic_cine import CineMotion, TrueFrame, synthetic_cine
from samus_edge.benchmarking.turns import Latency
from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.data.splitting import load_split
from samus_edge.evaluation.metrics import dice
from samus_edge.reporting.figure import new_figure, png_bytes
from samus_edge.runtime import Segmenter
from samus_edge.runtime.cine.lesion_tracker import LesionTracker
from samus_edge.runtime.cine.stream import Stream
from samus_edge.runtime.measurement.lesion_measurements import box_around

BENCHMARKS_DIR = Path(__file__).resolve().parent
RESULTS = BENCHMARKS_DIR / "results"
KINDS = {"moving": CineMotion(frames=90), "hidden": CineMotion(frames=90, hidden=(35, 50))}
WRONG_DICE = 0.5
SOAK_RATE = 15.0


@dataclass(frozen=True)
class Frame:
    """What came of one frame."""

    state: str
    dice: float | None
    """Of the mask; None without one."""
    ceiling: float
    """Dice with the true box."""
    visibility: float
    latency_ms: float


def follow(segmenter: Segmenter, frames: list[TrueFrame]) -> list[Frame]:
    """Follow one lesion from its true box in the first frame."""
    tracker = LesionTracker(segmenter)
    done: list[Frame] = []
    for frame in frames:
        box = box_around(frame.mask)
        assert box is not None
        begun = time.perf_counter()
        tracked = tracker.update(frame.image) if done else tracker.start(frame.image, box)
        latency = 1000 * (time.perf_counter() - begun)
        best = segmenter.segment(frame.image, boxes=[box]).masks[0, 0]
        own = None if tracked.mask is None else dice(tracked.mask, frame.mask)
        done.append(Frame(tracked.state, own, dice(best, frame.mask), frame.visibility, latency))
    return done


def summary(cines: list[list[Frame]]) -> dict[str, Any]:
    """Over all frames of all cines of a kind."""
    frames = [frame for cine in cines for frame in cine]
    visible = [frame for frame in frames if frame.visibility == 1]
    hidden = [frame for frame in frames if frame.visibility == 0]
    masks = [frame.dice for frame in visible if frame.dice is not None]
    certain = [
        frame.dice for frame in visible if frame.state == "tracking" and frame.dice is not None
    ]
    ends = [cine[-1].dice for cine in cines if cine[-1].dice is not None]
    latency = Latency.of([frame.latency_ms for frame in frames])
    return {
        "cines": len(cines),
        "frames": len(frames),
        "dice": round(float(np.mean(masks)), 4),
        "dice_with_true_boxes": round(float(np.mean([frame.ceiling for frame in visible])), 4),
        "dice_of_first_frames": round(float(np.mean([cine[0].dice or 0 for cine in cines])), 4),
        "dice_of_last_frames": round(float(np.mean(ends)), 4),
        "visible_with_mask": round(len(masks) / len(visible), 4),
        "visible_called_certain": round(len(certain) / len(visible), 4),
        "certain_and_wrong": round(float(np.mean([each < WRONG_DICE for each in certain])), 5),
        "hidden_with_mask": _share(hidden, lambda frame: frame.dice is not None),
        "hidden_called_certain": _share(hidden, lambda frame: frame.state == "tracking"),
        "cines_found_again": sum(cine[-1].dice is not None for cine in cines),
        "latency_ms": {"p50": round(latency.p50, 2), "p99": round(latency.p99, 2)},
        "frames_per_second": round(latency.per_second, 1),
    }


def _share(frames: list[Frame], is_so: Any) -> float | None:
    return round(float(np.mean([is_so(frame) for frame in frames])), 4) if frames else None


def draw(results: dict[str, list[list[Frame]]]) -> bytes:
    """A PNG file: Dice over time, for each kind of cine."""
    figure = new_figure(5.4 * len(results), 3.6)
    for axes, (kind, cines) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
        for cine in cines:
            values = [np.nan if frame.dice is None else frame.dice for frame in cine]
            axes.plot(values, color="tab:blue", alpha=0.25, linewidth=0.8)
        ceiling = np.mean([[frame.ceiling for frame in cine] for cine in cines], axis=0)
        shown = [[np.nan if frame.dice is None else frame.dice for frame in cine] for cine in cines]
        has_any = ~np.isnan(np.array(shown)).all(axis=0)
        mean = np.full(len(ceiling), np.nan)
        mean[has_any] = np.nanmean(np.array(shown)[:, has_any], axis=0)
        share = np.mean([[frame.dice is not None for frame in cine] for cine in cines], axis=0)
        axes.plot(ceiling, color="black", linewidth=1, label="true box in every frame")
        axes.plot(mean, color="tab:blue", linewidth=2, label="followed, mean of masks")
        axes.plot(share, color="tab:orange", linewidth=1, label="part of cines with a mask")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("frame")
        axes.set_ylabel("Dice")
        axes.set_title(f"{kind}: {len(cines)} cines", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower left")
    return png_bytes(figure)


def soak(
    segmenter: Segmenter, case: UltrasoundCase, minutes: float, console: Console
) -> dict[str, Any]:
    """Stream frames in real time, over and over, and watch the memory."""
    image, masks = read_image(case), read_instances(case)
    motion = CineMotion(frames=120)  # two to-and-fros: the last frame meets the first
    frames = list(synthetic_cine(image, masks[0], motion))
    box = box_around(frames[0].mask)
    assert box is not None
    samples: list[dict[str, float]] = []
    states: dict[str, int] = {}
    begun = time.monotonic()
    sent, next_sample = 0, 30.0
    with Stream(segmenter) as stream:
        stream.mark(box)
        while (elapsed := time.monotonic() - begun) < 60 * minutes:
            stream.submit(frames[sent % len(frames)].image)
            sent += 1
            try:
                while True:
                    tracked = stream.result(timeout=0).tracked
                    if tracked is not None:
                        states[tracked.state] = states.get(tracked.state, 0) + 1
            except TimeoutError:
                pass
            if elapsed >= next_sample:
                resident = resident_bytes()
                samples.append({"seconds": round(elapsed), "mb": round((resident or 0) / 1e6, 1)})
                console.print(samples[-1])
                next_sample += 30
            time.sleep(max(0.0, sent / SOAK_RATE - (time.monotonic() - begun)))
        statistics = stream.statistics()
    half = samples[len(samples) // 4 :] or samples
    slope = (
        float(np.polyfit([s["seconds"] / 60 for s in half], [s["mb"] for s in half], 1)[0])
        if len(half) > 1
        else 0.0
    )
    return {
        "minutes": minutes,
        "frames_per_second_submitted": SOAK_RATE,
        "statistics": statistics.to_json(),
        "states": states,
        "memory": samples,
        "growth_mb_per_minute_after_a_quarter": round(slope, 4),
    }


def command(
    data: Annotated[Path, typer.Option(help="Folder of BUSI.")],
    split: Annotated[Path, typer.Option(help="JSON file with its subsets.")],
    subset: Annotated[str, typer.Option(help="Part of it.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Lesions, evenly from the list.")] = 24,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    soak_minutes: Annotated[
        float | None, typer.Option("--soak", help="Soak instead, minutes.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The result file.")] = None,
    chart: Annotated[Path, typer.Option(help="The chart, PNG.")] = (
        BENCHMARKS_DIR.parent / "docs" / "images" / "cine_tracking.png"
    ),
) -> None:
    """Follow lesions through cines whose true masks are known."""
    console = Console()
    lesions = select_lesions(list_cases(data, load_split(split)[subset]))
    lesions = [case for case in lesions if len(case.mask_paths) == 1]
    chosen = lesions[:: max(1, len(lesions) // count)][:count]
    with Segmenter.load(threads=threads) as segmenter:
        if soak_minutes is not None:
            document = {
                "benchmark": "stream_soak",
                "threads": threads,
                **soak(segmenter, chosen[0], soak_minutes, console),
            }
            write_results(output or RESULTS / "stream_soak.json", document)
            console.print(document["statistics"])
            return
        results: dict[str, list[list[Frame]]] = {kind: [] for kind in KINDS}
        with Progress(console=console) as progress:
            task = progress.add_task("following", total=len(KINDS) * len(chosen))
            for kind, motion in KINDS.items():
                for seed, case in enumerate(chosen):
                    masks = read_instances(case)
                    frames = list(synthetic_cine(read_image(case), masks[0], motion, seed=seed))
                    results[kind].append(follow(segmenter, frames))
                    progress.advance(task)
    summaries = {kind: summary(cines) for kind, cines in results.items()}
    table = Table(title="lesions followed")
    table.add_column("")
    for kind in summaries:
        table.add_column(kind, justify="right")
    for name in summaries["moving"]:
        table.add_row(name, *(str(each[name]) for each in summaries.values()))
    console.print(table)
    document = {
        "benchmark": "cine_tracking",
        "subset": subset,
        "threads": threads,
        "motion": {kind: asdict(motion) for kind, motion in KINDS.items()},
        "results": summaries,
        "cases": [case.key for case in chosen],
    }
    write_results(output or RESULTS / "cine_tracking.json", document)
    chart.write_bytes(draw(results))


if __name__ == "__main__":
    typer.run(command)
