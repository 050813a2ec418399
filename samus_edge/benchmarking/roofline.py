"""How near subjects come to the limits of the machine."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from samus_edge.benchmarking.ceilings import Ceiling
from samus_edge.benchmarking.graph_work import GraphWork
from samus_edge.benchmarking.latency import Latency
from samus_edge.benchmarking.turns import Timed

__all__ = ["RooflinePoint", "roofline"]

_GIGA = 1e9


@dataclass(frozen=True)
class RooflinePoint:
    """One graph of one subject.

    Attributes:
        subject: its name.
        graph: its name.
        flop_per_byte: operations for each byte that has to be moved.
        gflop_per_s: reached, at the median.
        limit_gflop_per_s: that the machine allows at this intensity.
        bound: "compute" or "memory": which of the two limits it is.
        ceiling: key of the ceiling, for example "cpu fp32".
    """

    subject: str
    graph: str
    flop_per_byte: float
    gflop_per_s: float
    limit_gflop_per_s: float
    bound: str
    ceiling: str

    @property
    def reached(self) -> float:
        """Of the limit, 0 to 1."""
        return self.gflop_per_s / self.limit_gflop_per_s

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {**asdict(self), "reached": round(self.reached, 4)}


def roofline(
    timed: Sequence[Timed], work: Mapping[str, GraphWork], ceilings: Mapping[str, Ceiling]
) -> list[RooflinePoint]:
    """Compare what was timed with what the machine allows.

    The device's clock counts where there is one. Subjects in a precision whose ceiling was not measured are
    left out.

    Args:
        timed: the stages of subjects.
        work: of one frame or one prompt, by stage.
        ceilings: by "cpu fp32", "gpu fp16" and so on.
    """
    points: list[RooflinePoint] = []
    for each in timed:
        subject, stage = each.subject, each.stage
        key = f"{'gpu' if subject.is_on_gpu else 'cpu'} {subject.precision}"
        if stage.name not in work or stage.items != 1 or key not in ceilings:
            continue
        graph, ceiling = work[stage.name], ceilings[key]
        milliseconds = Latency.of(each.device_milliseconds or each.milliseconds).p50
        # Weights and activations of half precision are half as many bytes.
        intensity = graph.intensity * (2 if subject.precision in ("fp16", "bf16") else 1)
        limit = ceiling.gflop_per_s_at(intensity)
        points.append(
            RooflinePoint(
                subject.name,
                stage.name,
                intensity,
                graph.flop / _GIGA / (milliseconds / 1e3),
                limit,
                "compute" if limit == ceiling.gflop_per_s else "memory",
                key,
            )
        )
    return points
