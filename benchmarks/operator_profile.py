"""Where the time of a bundle's graphs goes, and how far their products are from the processor's
limit.

Run it in the development environment: `python benchmarks/operator_profile.py`. Writes
`benchmarks/results/operator_profile.json` and `docs/images/operator_profile.png`.

ONNX Runtime's profiler times every node of the optimised graphs, and notes the shapes from which
the operations of matrix products and convolutions are counted. In the same run, taking turns with
the graphs, one large float32 matrix product shows what the processor reaches. A node's time is the
tenth percentile of its runs, which other processes disturb least; the profiler itself adds some
microseconds to each node.
"""

import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from cpu_latency import BENCHMARKS_DIR, EXAMPLES_DIR, Candidate, our_candidates
from samus_edge.benchmarking.bench_run import write_results
from samus_edge.benchmarking.planner import SIDE as CEILING_SIDE
from samus_edge.benchmarking.planner import LargeProduct
from samus_edge.errors import SamusEdgeError
from samus_edge.reporting.figure import new_figure, png_bytes
from samus_edge.runtime.backends.onnxruntime_backend import ort
from samus_edge.runtime.bundle.bundle import Bundle

PERCENTILE = 10
CHART_OPERATORS = 12
GFLOP, MICROSECONDS_PER_SECOND = 1e9, 1e6
CONVOLUTIONS = ("Conv", "FusedConv")
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", *CONVOLUTIONS)
"""What is counted; ONNX Runtime's own names are those of the same products with more in them."""


@dataclass
class NodeTimes:
    """One node of an optimised graph."""

    name: str
    """As ONNX Runtime names it; a fused node carries the name of one of its parts."""
    operator: str
    """Of the optimised graph."""
    flop: int
    """Multiplications and additions of one run; 0 where there is no product."""
    times_us: list[float] = field(default_factory=list)
    """Of each run, microseconds."""

    @property
    def time_us(self) -> float:
        """The tenth percentile of the runs."""
        return float(np.percentile(self.times_us, PERCENTILE))

    @property
    def gflop_per_s(self) -> float:
        """What was reached."""
        return self.flop / GFLOP / (self.time_us / MICROSECONDS_PER_SECOND)


def flop_of(operator: str, inputs: list[list[int]], output: list[int]) -> int:
    """Multiplications and additions of a node, from shapes; 0 where it is no product.

    Args:
        operator: of the optimised graph.
        inputs: shapes of its inputs, without weights that ONNX Runtime keeps in a form of its own:
            those of matrix products, not those of convolutions.
        output: shape of its first output.
    """
    if operator not in PRODUCTS:
        return 0
    if operator in CONVOLUTIONS:
        return 2 * math.prod(output) * math.prod(inputs[1][1:])  # weights (out, in / groups, ...)
    # (..., M, K), perhaps transposed, by (..., K, N)
    inner = math.prod(inputs[0][-2:]) // output[-2]
    return 2 * math.prod(output) * inner


def read_profile(path: Path) -> list[NodeTimes]:
    """The nodes of a profile, as ONNX Runtime writes it, in the order in which they ran."""
    nodes: dict[str, NodeTimes] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        name = event.get("name", "")
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        details = event["args"]
        if name not in nodes:
            operator = details["op_name"]
            inputs = _shapes(details["input_type_shape"])
            flop = flop_of(operator, inputs, _shapes(details["output_type_shape"])[0])
            nodes[name] = NodeTimes(name.removesuffix("_kernel_time"), operator, flop)
        nodes[name].times_us.append(event["dur"])
    return list(nodes.values())


def _shapes(values: list[dict[str, list[int]]]) -> list[list[int]]:
    """Shapes from ONNX Runtime's `[{"float": [1, 2]}, ...]`."""
    return [shape for value in values for shape in value.values()]


def profile(
    bundle_dir: Path | None, threads: int, rounds: int, runs: int
) -> tuple[dict[str, list[NodeTimes]], float]:
    """Profile both graphs of a bundle on an example image and its box.

    Args:
        bundle_dir: the bundle; None for the default one.
        threads: threads per graph.
        rounds: how often the graphs and the large product take turns.
        runs: runs of a graph in its turn.

    Returns:
        Nodes by graph, and the large product's GFLOP/s.
    """
    name = "malignant_29.png"
    image = cv2.imread(str(EXAMPLES_DIR / name), cv2.IMREAD_GRAYSCALE)
    if image is None:
        sys.exit(f"cannot read {EXAMPLES_DIR / name}. Is the checkout complete?")
    frame: npt.NDArray[np.uint8] = image.astype(np.uint8)
    box: list[float] = json.loads((EXAMPLES_DIR / "prompts.json").read_text())[name]
    candidates = our_candidates(bundle_dir, frame, box, threads)
    product = LargeProduct(threads)
    with tempfile.TemporaryDirectory() as folder:
        for each in candidates:
            each.session = _profiled(bundle_dir, each, threads, Path(folder))
            each.run()  # the first run takes memory, and is in the profile as one of many
        for _ in range(rounds):
            product.run()
            for each in candidates:
                for _ in range(runs):
                    each.run()
        nodes = {
            each.graph: read_profile(Path(each.session.end_profiling())) for each in candidates
        }
    return nodes, product.gflop_per_s


def _profiled(
    bundle_dir: Path | None, candidate: Candidate, threads: int, folder: Path
) -> ort.InferenceSession:
    bundle = Bundle.open(bundle_dir)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / candidate.graph)
    graph = bundle.read_graph(candidate.graph)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def by_operator(nodes: Iterable[NodeTimes]) -> list[dict[str, Any]]:
    """Nodes, time and operations of each operator, the longest time first."""
    groups: dict[str, list[NodeTimes]] = defaultdict(list)
    for node in nodes:
        groups[node.operator].append(node)
    rows = [
        {
            "operator": operator,
            "nodes": len(group),
            "time_us": round(sum(node.time_us for node in group), 1),
            "gflop": round(sum(node.flop for node in group) / GFLOP, 4),
        }
        for operator, group in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["time_us"])


def summary(nodes: list[NodeTimes], ceiling: float) -> dict[str, Any]:
    """A graph's operators, its products one by one, and what the limit would allow."""
    gflop = sum(node.flop for node in nodes) / GFLOP
    total_us = sum(node.time_us for node in nodes)
    products_us = sum(node.time_us for node in nodes if node.flop)
    ideal_us = gflop / ceiling * MICROSECONDS_PER_SECOND
    return {
        "nodes": len(nodes),
        "gflop": round(gflop, 4),
        "time_us": round(total_us, 1),
        "products_us": round(products_us, 1),
        "products_at_the_ceiling_us": round(ideal_us, 1),
        "reached_of_ceiling_in_products": round(ideal_us / products_us, 3),
        "reached_of_ceiling_in_all": round(ideal_us / total_us, 3),
        "operators": by_operator(nodes),
        "products": [
            {
                "node": node.name,
                "operator": node.operator,
                "gflop": round(node.flop / GFLOP, 5),
                "time_us": round(node.time_us, 1),
                "gflop_per_s": round(node.gflop_per_s, 1),
            }
            for node in nodes
            if node.flop
        ],
    }


def print_tables(console: Console, graphs: dict[str, dict[str, Any]], ceiling: float) -> None:
    """Print what was measured."""
    for name, graph in graphs.items():
        table = Table(title=f"{name}: {graph['time_us'] / 1e3:.2f} ms in {graph['nodes']} nodes")
        for column in ("operator", "nodes", "ms", "GFLOP", "GFLOP/s"):
            table.add_column(column, justify="left" if column == "operator" else "right")
        for row in graph["operators"]:
            speed = row["gflop"] / row["time_us"] * MICROSECONDS_PER_SECOND
            counted = (f"{row['gflop']:.3f}", f"{speed:.0f}") if row["gflop"] else ("", "")
            table.add_row(
                row["operator"], str(row["nodes"]), f"{row['time_us'] / 1e3:.3f}", *counted
            )
        console.print(table)
        console.print(
            f"{name}: products reach {graph['reached_of_ceiling_in_products']:.0%} of "
            f"{ceiling:.0f} GFLOP/s, the graph {graph['reached_of_ceiling_in_all']:.0%}"
        )


def draw(graphs: dict[str, dict[str, Any]], ceiling: float) -> bytes:
    """A PNG file: time of each operator in each graph, and what its products would take at best."""
    figure = new_figure(5.2 * len(graphs), 4.2)
    for axes, (name, graph) in zip(figure.subplots(1, len(graphs)), graphs.items(), strict=True):
        rows = graph["operators"][:CHART_OPERATORS]
        labels = [f"{row['operator']} ({row['nodes']})" for row in rows]
        axes.barh(labels, [row["time_us"] / 1e3 for row in rows], color="0.75", label="measured")
        ideal = [row["gflop"] / ceiling * 1e3 for row in rows]
        axes.barh(
            labels, ideal, height=0.4, color="tab:blue", label=f"products at {ceiling:.0f} GFLOP/s"
        )
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds")
        axes.set_title(f"{name}, {graph['time_us'] / 1e3:.1f} ms", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    return png_bytes(figure)


def command(
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of a bundle; the default bundle if not given.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads per graph.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="How often each graph gets its turn.")] = 20,
    runs: Annotated[int, typer.Option(min=1, help="Runs per turn.")] = 5,
    output: Annotated[Path, typer.Option(help="The result file.")] = (
        BENCHMARKS_DIR / "results" / "operator_profile.json"
    ),
    chart: Annotated[Path, typer.Option(help="The chart, PNG.")] = (
        BENCHMARKS_DIR.parent / "docs" / "images" / "operator_profile.png"
    ),
) -> None:
    """Profile both graphs of a bundle, operator by operator."""
    console = Console()
    try:
        nodes, ceiling = profile(bundle, threads, rounds, runs)
    except SamusEdgeError as err:
        sys.exit(str(err))
    graphs = {name: summary(each, ceiling) for name, each in nodes.items()}
    print_tables(console, graphs, ceiling)
    document = {
        "benchmark": "operator_profile",
        "threads": threads,
        "runs": rounds * runs,
        "percentile_of_times": PERCENTILE,
        "ceiling_gflop_per_s": round(ceiling, 1),
        "ceiling_product": [CEILING_SIDE] * 3,
        "graphs": graphs,
    }
    write_results(output, document)
    chart.write_bytes(draw(graphs, ceiling))


if __name__ == "__main__":
    typer.run(command)
