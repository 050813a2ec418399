"""What a benchmark found, as a document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from samus_edge.benchmarking.ceilings import Ceiling
from samus_edge.benchmarking.graph_work import GraphWork
from samus_edge.benchmarking.latency import Latency, Ratio, ratio_of_medians
from samus_edge.benchmarking.roofline import RooflinePoint
from samus_edge.benchmarking.subject import Subject
from samus_edge.benchmarking.turns import Timed

__all__ = ["BenchResults", "BenchRow", "rows_of"]


@dataclass(frozen=True)
class BenchRow:
    """One stage of one subject.

    Attributes:
        subject: name of the subject.
        stage: name of the stage.
        items: frames or prompts of one run.
        latency: from host to host.
        device: by the device's clock; None where it has none.
        ratio: to the first subject's, from host to host; None for itself.
        device_ratio: to the first subject that has a device's clock.
    """

    subject: str
    stage: str
    items: int
    latency: Latency
    device: Latency | None
    ratio: Ratio | None
    device_ratio: Ratio | None

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


@dataclass
class BenchResults:
    """Everything that was found.

    Attributes:
        rows: what was timed.
        subjects: what was timed, and what it took of memory.
        left_out: what could not be timed, and why.
        work: of the graphs; empty where it could not be counted.
        ceilings: of the machine, by device and precision.
        points: the rows beside the ceilings.
        facts: how it was measured.
    """

    rows: list[BenchRow] = field(default_factory=list)
    subjects: list[dict[str, object]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    work: Mapping[str, GraphWork] = field(default_factory=dict)
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)
    points: Sequence[RooflinePoint] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def add_subjects(self, subjects: Sequence[Subject]) -> None:
        """Note what was timed."""
        self.subjects += [
            {
                "name": each.name,
                "device": each.device,
                "version": each.version,
                "precision": each.precision,
                "memory_bytes": each.memory_bytes,
                "gpu_memory_bytes": each.gpu_memory_bytes,
            }
            for each in subjects
        ]

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {
            "benchmark": "bench",
            **self.facts,
            "subjects": self.subjects,
            "left_out": self.left_out,
            "results": [row.to_json() for row in self.rows],
            "graphs": {name: work.to_json() for name, work in self.work.items()},
            "ceilings": {name: asdict(ceiling) for name, ceiling in self.ceilings.items()},
            "roofline": [point.to_json() for point in self.points],
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
