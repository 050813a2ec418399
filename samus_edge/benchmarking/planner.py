"""What a Jetson would need, estimated from published ceilings. No Jetson was measured for this."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from samus_edge.benchmarking.graph_work import GraphWork
from samus_edge.benchmarking.jetson_modules import JetsonModule

__all__ = ["ASSUMPTIONS", "PLANNED_PRECISIONS", "Estimate", "estimate"]

PLANNED_PRECISIONS = ("fp16", "int8")

_BYTES_PER_VALUE = {"fp16": 2, "int8": 1}
_REFERENCE_BYTES = 4  # graphs are counted in float32


@dataclass(frozen=True)
class Assumptions:
    """What lies between a ceiling and a real graph at batch 1. Assumed, not measured.

    Attributes:
        compute: part of the tensor cores' ceiling that is reached.
        bandwidth: part of the memory's.
        launch_ms: that a graph takes before and after it computes.
    """

    compute: float
    bandwidth: float
    launch_ms: float


ASSUMPTIONS = {
    "fast": Assumptions(compute=0.5, bandwidth=0.8, launch_ms=0.05),
    "slow": Assumptions(compute=0.1, bandwidth=0.5, launch_ms=0.5),
}
"""Small graphs at batch 1 leave most of a GPU idle, so the range is wide. The fast end moves only what has to be
moved, the slow end everything that nodes read and write."""


@dataclass(frozen=True)
class Estimate:
    """Of one graph on one module; milliseconds of one frame or one box.

    Attributes:
        module: name of the module.
        graph: name of the graph.
        precision: one of `PLANNED_PRECISIONS`.
        low_ms: by the fast assumptions.
        high_ms: by the slow ones.
        bound: "compute" or "memory": what decides at the fast end.
        is_estimate: always true, for whoever reads the JSON.
    """

    module: str
    graph: str
    precision: str
    low_ms: float
    high_ms: float
    bound: str
    is_estimate: bool = True

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


def estimate(module: JetsonModule, work: Mapping[str, GraphWork]) -> list[Estimate]:
    """Estimate every graph in every planned precision.

    The longer of computing and moving, each at the assumed part of its ceiling, and the launch.

    Args:
        module: its published figures.
        work: by graph.
    """
    found: list[Estimate] = []
    for graph, counted in work.items():
        for precision in PLANNED_PRECISIONS:
            tflops = module.fp16_tflops * (2 if precision == "int8" else 1)
            scale = _BYTES_PER_VALUE[precision] / _REFERENCE_BYTES
            milliseconds: dict[str, float] = {}
            bound = ""
            for end, assumed in ASSUMPTIONS.items():
                moved = counted.least_bytes if end == "fast" else counted.most_bytes
                compute = counted.flop / (tflops * 1e12 * assumed.compute) * 1e3
                memory = moved * scale / (module.gbyte_per_s * 1e9 * assumed.bandwidth) * 1e3
                milliseconds[end] = max(compute, memory) + assumed.launch_ms
                bound = bound or ("compute" if compute >= memory else "memory")
            found.append(
                Estimate(
                    module.name,
                    graph,
                    precision,
                    round(milliseconds["fast"], 3),
                    round(milliseconds["slow"], 3),
                    bound,
                )
            )
    return found
