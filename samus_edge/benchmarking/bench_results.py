"""Results of a benchmark, as a document and as a chart."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from samus_edge.benchmarking.subject import STAGES, Subject
from samus_edge.benchmarking.turns import Latency, Ratio, Timed, ratio_of_medians
from samus_edge.reporting.figure import new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUBJECT_FIELDS = ("name", "device", "version", "precision", "memory_bytes", "gpu_memory_bytes")


@dataclass(frozen=True)
class BenchRow:
    """One stage of one subject.

    Attributes:
        subject: name of the subject.
        stage: name of the stage.
        items: frames or prompts of one run.
        latency: times from host to host.
        device: times by the device's clock; None where it has none.
        ratio: ratio to the first subject's time from host to host; None for the first itself.
        device_ratio: ratio to the first subject that has a device's clock.
    """

    subject: str
    stage: str
    items: int
    latency: Latency
    device: Latency | None
    ratio: Ratio | None
    device_ratio: Ratio | None


@dataclass
class BenchResults:
    """Everything that a benchmark found.

    Attributes:
        rows: times by subject and stage.
        subjects: what was timed.
        left_out: what could not be timed, and why.
        facts: how it was measured.
    """

    rows: list[BenchRow] = field(default_factory=list)
    subjects: Sequence[Subject] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "benchmark": "bench",
            **self.facts,
            "subjects": [
                {name: getattr(each, name) for name in _SUBJECT_FIELDS} for each in self.subjects
            ],
            "left_out": self.left_out,
            "results": [asdict(row) for row in self.rows],
        }


def rows_of(timed: Sequence[Timed]) -> list[BenchRow]:
    """Sum up what was timed, each beside the first subject of its stage and number of items."""
    rows: list[BenchRow] = []
    first: dict[tuple[str, int], Timed] = {}
    first_on_device: dict[tuple[str, int], Timed] = {}
    for each in timed:
        key = (each.stage.name, each.stage.items)
        reference = first.setdefault(key, each)
        device, device_ratio = None, None
        if each.device_rounds:
            device = Latency.of(each.device_milliseconds, each.stage.items)
            other = first_on_device.setdefault(key, each)
            if other is not each:
                device_ratio = ratio_of_medians(each.device_rounds, other.device_rounds)
        rows.append(
            BenchRow(
                each.subject.name,
                *key,
                Latency.of(each.milliseconds, each.stage.items),
                device,
                None if reference is each else ratio_of_medians(each.rounds, reference.rounds),
                device_ratio,
            )
        )
    return rows


def draw_chart(results: BenchResults) -> bytes:
    """A PNG file: p50 of one frame or one box with whiskers to p99, and sweeps.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    sweeps = [stage for stage in STAGES if _sizes(results, stage) > 1]
    panels = 1 + len(sweeps)
    columns = min(panels, 2)
    lines = -(-panels // columns)
    figure = new_figure(5.6 * columns, 4.0 * lines)
    axes = list(np.ravel(figure.subplots(lines, columns)))
    _draw_latencies(axes.pop(0), results)
    for stage in sweeps:
        _draw_sweep(axes.pop(0), results, stage)
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
