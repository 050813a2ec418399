"""How well and how fast a lesion is followed, on cines made from real frames by known motion.

`python benchmarks/cine_tracking.py --data BUSI --split split.json`; also draws
`docs/images/cine_tracking.png`.

The true mask of every frame is known, since each cine is one BUSI image under known motion: travel,
turning, pressure, gain and new speckle in every frame; in the second kind the lesion fades out of
the plane and comes back. The box of the first frame is that around the true mask. The ceiling is
the model's Dice with the true box in every frame.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.synthetic_cine import CineMotion, TrueFrame, synthetic_cine
from samus_edge.benchmarking.turns import Latency
from samus_edge.cli.console import progress_bar
from samus_edge.data.case import read_image, read_instances
from samus_edge.evaluation.metrics import dice
from samus_edge.reporting.figure import new_figure, png_bytes
from samus_edge.runtime import LesionTracker, Segmenter
from samus_edge.runtime.measurement.lesion_measurements import box_around

CHART = Path(__file__).parents[1] / "docs" / "images" / "cine_tracking.png"
KINDS = {"moving": CineMotion(frames=90), "hidden": CineMotion(frames=90, hidden=(35, 50))}
WRONG_DICE = 0.5


@dataclass(frozen=True)
class Frame:
    """What came of one frame: Dice of its mask (NaN without one), and with the true box."""

    state: str
    dice: float
    ceiling: float
    visibility: float
    latency_ms: float


def follow(segmenter: Segmenter, frames: Sequence[TrueFrame]) -> list[Frame]:
    """Follow one lesion from its true box in the first frame."""
    tracker = LesionTracker(segmenter)
    done: list[Frame] = []
    for frame in frames:
        box = box_around(frame.mask)
        assert box is not None
        begun = time.perf_counter()
        tracked = tracker.update(frame.image) if done else tracker.start(frame.image, box)
        latency = 1000 * (time.perf_counter() - begun)
        best = dice(segmenter.segment(frame.image, boxes=[box]).masks[0, 0], frame.mask)
        own = np.nan if tracked.mask is None else dice(tracked.mask, frame.mask)
        done.append(Frame(tracked.state, own, best, frame.visibility, latency))
    return done


def summary(cines: list[list[Frame]]) -> dict[str, Any]:
    """All frames of all cines of a kind."""
    frames = [frame for cine in cines for frame in cine]
    visible = [frame for frame in frames if frame.visibility == 1]
    hidden = [frame for frame in frames if frame.visibility == 0]
    ends = np.array([[cine[0].dice, cine[-1].dice] for cine in cines])
    certain = [frame.dice for frame in visible if frame.state == "tracking"]
    latency = Latency.of([frame.latency_ms for frame in frames])
    return {
        "cines": len(cines),
        "frames": len(frames),
        "dice": round(float(np.nanmean([frame.dice for frame in visible])), 4),
        "dice_with_true_boxes": round(float(np.mean([frame.ceiling for frame in visible])), 4),
        "dice_of_first_frames": round(float(np.mean(np.nan_to_num(ends[:, 0]))), 4),
        "dice_of_last_frames": round(float(np.nanmean(ends[:, 1])), 4),
        "visible_with_mask": share([not np.isnan(frame.dice) for frame in visible]),
        "visible_called_certain": share([frame.state == "tracking" for frame in visible]),
        "certain_and_wrong": share([each < WRONG_DICE for each in certain]),
        "hidden_with_mask": share([not np.isnan(frame.dice) for frame in hidden]),
        "hidden_called_certain": share([frame.state == "tracking" for frame in hidden]),
        "cines_found_again": int(np.sum(~np.isnan(ends[:, 1]))),
        "latency_ms": {"p50": round(latency.p50, 2), "p99": round(latency.p99, 2)},
        "frames_per_second": round(latency.per_second, 1),
    }


def share(which: list[bool]) -> float | None:
    """The part that is true; None of nothing."""
    return round(float(np.mean(which)), 5) if which else None


def draw(results: dict[str, list[list[Frame]]]) -> bytes:
    """Dice over time for each kind of cine, PNG."""
    figure = new_figure(5.4 * len(results), 3.6)
    for axes, (kind, cines) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
        scores = np.array([[frame.dice for frame in cine] for cine in cines])  # (cines, frames)
        ceiling = np.mean([[frame.ceiling for frame in cine] for cine in cines], axis=0)
        mean = np.ma.masked_invalid(scores).mean(axis=0).filled(np.nan)
        axes.plot(scores.T, color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(ceiling, color="black", linewidth=1, label="true box in every frame")
        axes.plot(mean, color="tab:blue", linewidth=2, label="followed, mean of masks")
        axes.plot(
            (~np.isnan(scores)).mean(axis=0),
            color="tab:orange",
            linewidth=1,
            label="part of cines with a mask",
        )
        axes.set(ylim=(0, 1.02), xlabel="frame", ylabel="Dice")
        axes.set_title(f"{kind}: {len(cines)} cines", fontsize=10)
        axes.legend(fontsize=8, loc="lower left")
    return png_bytes(figure)


def command(
    data: recipe.BusiFolder,
    split: recipe.BusiSplit,
    subset: recipe.Subset = "test",
    limit: Annotated[
        int, typer.Option("--limit", "--count", min=1, help="Lesions, evenly from the list.")
    ] = 24,
    threads: recipe.Threads = 2,
    output: recipe.Output = None,
    chart: Annotated[Path, typer.Option(help="The chart, PNG.")] = CHART,
) -> None:
    """Follow lesions through cines whose true masks are known."""
    lesions = [
        case for case in recipe.lesion_cases(data, split, subset) if len(case.mask_paths) == 1
    ]
    chosen = lesions[:: max(1, len(lesions) // limit)][:limit]
    results: dict[str, list[list[Frame]]] = {kind: [] for kind in KINDS}
    with (
        Segmenter.load(threads=threads) as segmenter,
        progress_bar("following", len(KINDS) * len(chosen)) as bar,
    ):
        for kind, motion in KINDS.items():
            for seed, case in enumerate(chosen):
                (mask,) = read_instances(case)
                frames = list(synthetic_cine(read_image(case), mask, motion, seed=seed))
                results[kind].append(follow(segmenter, frames))
                bar.update(advance=1)
    summaries = {kind: summary(cines) for kind, cines in results.items()}
    rows = [
        {"": name, **{kind: each[name] for kind, each in summaries.items()}}
        for name in summaries["moving"]
    ]
    recipe.print_rows("lesions followed", rows)
    document = {
        "subset": subset,
        "threads": threads,
        "motion": {kind: asdict(motion) for kind, motion in KINDS.items()},
        "results": summaries,
        "cases": [case.key for case in chosen],
    }
    recipe.write_results(__file__, document, output)
    chart.write_bytes(draw(results))


if __name__ == "__main__":
    typer.run(command)
