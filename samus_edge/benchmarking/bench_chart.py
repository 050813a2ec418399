"""The chart of a benchmark: latencies side by side, and the roofline."""

from typing import TYPE_CHECKING

import numpy as np

from samus_edge.benchmarking.bench_results import BenchResults
from samus_edge.benchmarking.subject import STAGES
from samus_edge.training.figure import new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_chart"]

_MARKERS = {"image_encoder": "o", "mask_decoder": "s"}


def draw_chart(results: BenchResults) -> bytes:
    """A PNG file: p50 of one frame or one box with whiskers to p99, sweeps, and the roofline.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    sweeps = [stage for stage in STAGES if _sizes(results, stage) > 1]
    has_roofline = bool(results.points)
    panels = 1 + len(sweeps) + has_roofline
    columns = min(panels, 2)
    lines = -(-panels // columns)
    figure = new_figure(5.6 * columns, 4.0 * lines)
    axes = list(np.ravel(figure.subplots(lines, columns)))
    _draw_latencies(axes.pop(0), results)
    for stage in sweeps:
        _draw_sweep(axes.pop(0), results, stage)
    if has_roofline:
        _draw_roofline(axes.pop(0), results)
    for unused in axes:
        unused.set_axis_off()
    return png_bytes(figure)


def _sizes(results: BenchResults, stage: str) -> int:
    return len({row.items for row in results.rows if row.stage == stage})


def _subjects(results: BenchResults) -> list[str]:
    return list(dict.fromkeys(row.subject for row in results.rows))


def _draw_latencies(axes: "Axes", results: BenchResults) -> None:
    subjects = _subjects(results)
    height = 0.8 / len(subjects)
    for index, subject in enumerate(subjects):
        rows = [row for row in results.rows if row.subject == subject and row.items == 1]
        places = [STAGES.index(row.stage) + index * height for row in rows]
        medians = [row.latency.p50 for row in rows]
        whiskers = [[0.0] * len(rows), [row.latency.p99 - row.latency.p50 for row in rows]]
        axes.barh(places, medians, height, xerr=whiskers, capsize=2, label=subject)
    middle = 0.4 - height / 2
    axes.set_yticks([place + middle for place in range(len(STAGES))], STAGES, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds, p50 and p99, host to host")
    axes.set_title("one frame, one box", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)


def _draw_sweep(axes: "Axes", results: BenchResults, stage: str) -> None:
    for subject in _subjects(results):
        rows = [row for row in results.rows if row.subject == subject and row.stage == stage]
        axes.plot(
            [row.items for row in rows],
            [row.latency.per_second for row in rows],
            marker="o",
            label=subject,
        )
    sizes = sorted({row.items for row in results.rows if row.stage == stage})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("frames in a run" if stage == "image_encoder" else "boxes in a run")
    axes.set_ylabel("per second")
    axes.set_title(stage, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_roofline(axes: "Axes", results: BenchResults) -> None:
    intensities = [point.flop_per_byte for point in results.points]
    span = np.geomspace(min(intensities) / 30, max(intensities) * 5, 200)
    for name in dict.fromkeys(point.ceiling for point in results.points):
        ceiling = results.ceilings[name]
        limits = [ceiling.gflop_per_s_at(float(value)) for value in span]
        axes.plot(span, limits, color="0.5", linewidth=1)
        axes.annotate(
            f"{name}: {ceiling.gflop_per_s:.0f} GFLOP/s, {ceiling.gbyte_per_s:.0f} GB/s",
            (span[0], ceiling.gflop_per_s),
            fontsize=7,
            va="bottom",
        )
    colours = {name: f"C{index}" for index, name in enumerate(_subjects(results))}
    for point in results.points:
        axes.plot(
            point.flop_per_byte,
            point.gflop_per_s,
            _MARKERS[point.graph],
            color=colours[point.subject],
            label=f"{point.graph}, {point.subject}: {point.reached:.0%}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Room for the legend below, and for the ceilings' names above.
    lowest = min(point.gflop_per_s for point in results.points)
    highest = max(ceiling.gflop_per_s for ceiling in results.ceilings.values())
    axes.set_ylim(lowest / 12, 2 * highest)
    axes.set_xlabel("FLOP per byte that has to be moved")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("roofline", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")
