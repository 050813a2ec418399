"""The tables of `samus-edge bench`."""

from collections.abc import Sequence

from rich.table import Table

from samus_edge.benchmarking.bench_results import BenchResults, BenchRow
from samus_edge.benchmarking.jetson_modules import JETSON_MODULES
from samus_edge.benchmarking.latency import Latency, Ratio
from samus_edge.benchmarking.planner import Estimate

__all__ = ["latency_table", "plan_table", "roofline_table", "subject_table"]

_MEGA = 1e6


def latency_table(results: BenchResults) -> Table:
    """One row for each subject, stage and number of items."""
    hw = "x".join(str(size) for size in results.facts["frame_hw"])
    has_device = any(row.device is not None for row in results.rows)
    title = (
        f"{results.facts['bundle']}, frame {hw}, {results.facts['threads']} threads; milliseconds"
    )
    table = Table(title=title, title_justify="left")
    for column in ("stage", "n", "subject"):
        table.add_column(column)
    for column in ("p50", "p90", "p99", "per s", "time, 95 %"):
        table.add_column(column, justify="right")
    if has_device:
        for column in ("device p50", "device time, 95 %"):
            table.add_column(column, justify="right")
    before: tuple[str, int] | None = None
    for row in results.rows:
        key = (row.stage, row.items)
        cells = [row.stage if before != key else "", str(row.items), row.subject]
        cells += _numbers(row.latency, row.ratio)
        if has_device:
            cells += _device(row)
        if before is not None and before != key:
            table.add_section()
        table.add_row(*cells)
        before = key
    return table


def subject_table(results: BenchResults) -> Table:
    """What computed, and its memory."""
    table = Table(title="memory that each took, its first runs included", title_justify="left")
    for column in ("subject", "device", "version"):
        table.add_column(column)
    for column in ("MB", "MB on the GPU"):
        table.add_column(column, justify="right")
    for each in results.subjects:
        memory, on_gpu = each["memory_bytes"], each["gpu_memory_bytes"]
        table.add_row(
            str(each["name"]), str(each["device"]), str(each["version"]), _mb(memory), _mb(on_gpu)
        )
    return table


def roofline_table(results: BenchResults) -> Table:
    """How near the graphs come to the machine's limits."""
    limits = ", ".join(
        f"{name} {ceiling.gflop_per_s:.0f} GFLOP/s and {ceiling.gbyte_per_s:.0f} GB/s"
        for name, ceiling in results.ceilings.items()
    )
    table = Table(title=f"roofline; measured limits: {limits}", title_justify="left")
    for column in ("graph", "subject"):
        table.add_column(column)
    for column in ("GFLOP", "FLOP/byte", "GFLOP/s", "limit", "reached", "bound"):
        table.add_column(column, justify="right")
    for point in results.points:
        table.add_row(
            point.graph,
            point.subject,
            f"{results.work[point.graph].flop / 1e9:.2f}",
            f"{point.flop_per_byte:.0f}",
            f"{point.gflop_per_s:.0f}",
            f"{point.limit_gflop_per_s:.0f}",
            f"{point.reached:.0%}",
            point.bound,
        )
    return table


def plan_table(estimates: Sequence[Estimate]) -> Table:
    """What modules would need."""
    table = Table(title="ESTIMATE, nothing here was measured", title_justify="left")
    for column in ("module", "graph", "precision"):
        table.add_column(column)
    for column in ("estimated ms", "bound"):
        table.add_column(column, justify="right")
    for each in estimates:
        table.add_row(
            JETSON_MODULES[each.module].title,
            each.graph,
            each.precision,
            f"{each.low_ms:.2f} to {each.high_ms:.2f}",
            each.bound,
        )
    return table


def _numbers(latency: Latency, ratio: Ratio | None) -> list[str]:
    values = [f"{value:.2f}" for value in (latency.p50, latency.p90, latency.p99)]
    return [*values, f"{latency.per_second:.1f}", _ratio(ratio)]


def _device(row: BenchRow) -> list[str]:
    if row.device is None:
        return ["", ""]
    return [f"{row.device.p50:.3f}", _ratio(row.device_ratio)]


def _ratio(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


def _mb(value: object) -> str:
    return f"{value / _MEGA:.0f}" if isinstance(value, int) else ""
