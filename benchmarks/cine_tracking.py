"""How well and how fast a lesion is followed, on cines made from real frames by known motion, and
how consistently in real clips.

`python benchmarks/cine_tracking.py --data BUSI --split split.json`; also draws
`docs/images/cine_tracking.png`. `python benchmarks/cine_tracking.py --clips FOLDER` takes the real
clips instead, and writes `results/cine_tracking_clips.json`.

The true mask of every frame of a made-up cine is known, since each is one BUSI image under known
motion: travel, turning, pressure, gain and new speckle in every frame; in the second kind the
lesion fades out of the plane and comes back. The box of the first frame is that around the true
mask. The ceiling is the model's Dice with the true box in every frame.

Of the real clips no true mask is known. Each structure is followed from a box in the first frame
to the end, and from the box around its last mask back to the first frame: where both ways have a
mask their Dice says how far following depends on where it began.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
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
from samus_edge.reporting.contact_sheets import SheetCell, SheetRow, draw_contact_sheet
from samus_edge.reporting.figure import new_figure, png_bytes
from samus_edge.runtime import LesionTracker, Segmenter, open_cine
from samus_edge.runtime.cine.lesion_tracker import Box, TrackedFrame
from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.runtime.images.overlay import encode_image
from samus_edge.runtime.measurement.lesion_measurements import box_around

CHART = Path(__file__).parents[1] / "docs" / "images" / "cine_tracking.png"
KINDS = {"moving": CineMotion(frames=90), "hidden": CineMotion(frames=90, hidden=(35, 50))}
WRONG_DICE = 0.5
BOXES = {
    "curved_abdomen": (205.0, 148.0, 425.0, 238.0),
    "echo_a4c_a": (115.0, 222.0, 215.0, 332.0),
    "echo_a4c_b": (168.0, 195.0, 268.0, 266.0),
    "echo_c": (248.0, 125.0, 345.0, 305.0),
    "echo_d": (262.0, 105.0, 372.0, 250.0),
    "gallbladder": (270.0, 90.0, 438.0, 268.0),
    "linear_soft_tissue": (264.0, 198.0, 362.0, 266.0),
    "lung": (72.0, 92.0, 152.0, 122.0),
}
"""Drawn by hand around a structure in the first frame of each clip, by its name: XYXY, pixels."""


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


def there_and_back(
    segmenter: Segmenter, clip: Path, box: Box
) -> tuple[dict[str, Any], list[SheetCell]]:
    """What following a structure to the end and back comes to, and six frames to look at."""
    cine = open_cine(str(clip))
    frames = [frame.image for frame in cine]
    cine.close()
    forward = track(segmenter, frames, box)
    last = max(index for index, each in enumerate(forward) if each.mask is not None)
    end = forward[last].box
    assert end is not None
    backward = track(segmenter, frames[last::-1], end)[::-1]
    both = [
        dice(there.mask, back.mask)
        for there, back in zip(forward, backward, strict=False)
        if there.mask is not None and back.mask is not None
    ]
    states = Counter(each.state for each in forward)
    has_mask = [each.mask is not None for each in forward]
    areas = [int(np.count_nonzero(each.mask)) for each in forward if each.mask is not None]
    row = {
        "clip": clip.stem,
        "frames": len(frames),
        **{state: states[state] for state in ("tracking", "uncertain", "lost", "stopped")},
        "times_lost": sum(before and not now for before, now in pairwise(has_mask)),
        "times_found": sum(each.was_found for each in forward),
        "frames_with_both_masks": len(both),
        "there_and_back_dice": round(float(np.mean(both)), 4),
        "lowest_dice": round(float(np.min(both)), 4),
        "frames_apart": sum(each < WRONG_DICE for each in both),
        "dice_in_first_frame": round(float(both[0]), 4) if backward[0].mask is not None else None,
        "largest_to_smallest_area": round(max(areas) / max(1, min(areas)), 2),
    }
    shown = np.linspace(0, len(frames) - 1, 6).round().astype(int)
    cells = []
    for index in shown:
        mask = forward[index].mask
        caption = f"{index}: {forward[index].state}"
        cells.append(SheetCell(frames[index], [] if mask is None else [mask], caption))
    return row, cells


def track(segmenter: Segmenter, frames: Sequence[GreyFrame], box: Box) -> list[TrackedFrame]:
    """Follow a structure from its box in the first frame."""
    tracker = LesionTracker(segmenter)
    return [tracker.start(frames[0], box), *map(tracker.update, frames[1:])]


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


def of_clips(folder: Path, threads: int, output: Path | None, sheet: Path | None) -> None:
    """Follow a structure through each real clip."""
    rows, pictures = [], []
    with (
        Segmenter.load(backend="onnxruntime", threads=threads) as segmenter,
        progress_bar("clips", len(BOXES)) as bar,
    ):
        for name, box in BOXES.items():
            row, cells = there_and_back(segmenter, folder / f"{name}.mp4", box)
            rows.append(row)
            pictures.append(SheetRow([name], cells))
            bar.update(advance=1)
    recipe.print_rows("clips followed there and back", rows)
    path = output or Path(__file__).parent / "results" / "cine_tracking_clips.json"
    recipe.write_results(__file__, {"threads": threads, "boxes": BOXES, "results": rows}, path)
    if sheet is not None:
        picture = draw_contact_sheet(pictures, cell_px=300)
        write_files_atomically({sheet: encode_image(sheet, picture)})


def command(
    data: Annotated[Path | None, recipe.BUSI_OPTION] = None,
    split: Annotated[Path | None, recipe.SPLIT_OPTION] = None,
    clips: Annotated[Path | None, typer.Option(help="Real clips instead.", exists=True)] = None,
    sheet: Annotated[Path | None, typer.Option(help="Frames of the clips, PNG.")] = None,
    subset: recipe.Subset = "test",
    limit: Annotated[
        int, typer.Option("--limit", "--count", min=1, help="Lesions, evenly from the list.")
    ] = 24,
    threads: recipe.Threads = 2,
    output: recipe.Output = None,
    chart: Annotated[Path, typer.Option(help="The chart, PNG.")] = CHART,
) -> None:
    """Follow lesions through cines whose true masks are known, or structures in real clips."""
    if clips is not None:
        of_clips(clips, threads, output, sheet)
        return
    if data is None or split is None:
        raise typer.BadParameter("give either --data and --split, or --clips.")
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
