"""Where the time of a bundle's graphs goes, and how far their products are from the processor's
limit.

`python benchmarks/operator_profile.py`; also draws `docs/images/operator_profile.png`.

ONNX Runtime's profiler times every node of the optimised graphs, and notes the shapes from which
the operations of matrix products and convolutions are counted. In the same run, taking turns with
the graphs, one large float32 matrix product shows what the processor reaches. A node's time is the
tenth percentile of its runs, which other processes disturb least; the profiler itself adds some
microseconds to each node.
"""

import json
import math
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.planner import GFLOP, SIDE, LargeProduct
from samus_edge.benchmarking.subject import IMAGE_ENCODER, MASK_DECODER, Workload, cpu_session
from samus_edge.cli.options import BundlePath
from samus_edge.reporting.figure import new_figure, png_bytes
from samus_edge.runtime import Bundle, read_image

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "malignant_29.png"
PERCENTILE = 10
CHART_OPERATORS = 12
CONVOLUTIONS = ("Conv", "FusedConv")
# ONNX Runtime's own names are those of the same products with more in them.
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", *CONVOLUTIONS)


@dataclass
class Node:
    """A node of an optimised graph; a fused one has the name of one of its parts."""

    name: str
    operator: str
    gflop: float
    times_us: list[float] = field(default_factory=list)

    @property
    def time_us(self) -> float:
        """Tenth percentile of the runs."""
        return float(np.percentile(self.times_us, PERCENTILE))


def read_profile(path: str) -> list[Node]:
    """The nodes of a profile of ONNX Runtime, in the order in which they ran."""
    nodes: dict[str, Node] = {}
    for event in json.loads(Path(path).read_text(encoding="utf-8")):
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            if name not in nodes:
                short = name.removesuffix("_kernel_time")
                nodes[name] = Node(short, event["args"]["op_name"], gflop_of(event["args"]))
            nodes[name].times_us.append(event["dur"])
    return list(nodes.values())


def gflop_of(details: dict[str, Any]) -> float:
    """Multiplications and additions of a node; 0 where it is no product.

    The shapes leave out weights that ONNX Runtime keeps in a form of its own: those of matrix
    products, not those of convolutions.
    """
    inputs, outputs = (
        [shape for value in details[f"{kind}_type_shape"] for shape in value.values()]
        for kind in ("input", "output")
    )
    if details["op_name"] not in PRODUCTS:
        return 0.0
    if details["op_name"] in CONVOLUTIONS:
        inner = math.prod(inputs[1][1:])  # weights (out, in / groups, ...)
    else:
        inner = math.prod(inputs[0][-2:]) // outputs[0][-2]  # (..., M, K), perhaps transposed
    return float(2 * math.prod(outputs[0]) * inner / GFLOP)


def summary(nodes: list[Node], ceiling: float) -> dict[str, Any]:
    """A graph's operators, its products one by one, and what the limit would allow."""
    products = [node for node in nodes if node.gflop]
    total_us = sum(node.time_us for node in nodes)
    products_us = sum(node.time_us for node in products)
    ideal_us = sum(node.gflop for node in nodes) / ceiling * 1e6
    groups: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        groups[node.operator].append(node)
    operators = [
        {
            "operator": operator,
            "nodes": len(group),
            "time_us": round(sum(node.time_us for node in group), 1),
            "gflop": round(sum(node.gflop for node in group), 4),
        }
        for operator, group in groups.items()
    ]
    return {
        "nodes": len(nodes),
        "gflop": round(sum(node.gflop for node in nodes), 4),
        "time_us": round(total_us, 1),
        "products_us": round(products_us, 1),
        "products_at_the_ceiling_us": round(ideal_us, 1),
        "reached_of_ceiling_in_products": round(ideal_us / products_us, 3),
        "reached_of_ceiling_in_all": round(ideal_us / total_us, 3),
        "operators": sorted(operators, key=lambda row: -float(row["time_us"])),
        "products": [
            {
                "node": node.name,
                "operator": node.operator,
                "gflop": round(node.gflop, 5),
                "time_us": round(node.time_us, 1),
                "gflop_per_s": round(node.gflop / node.time_us * 1e6, 1),
            }
            for node in products
        ],
    }


def draw(graphs: dict[str, dict[str, Any]], ceiling: float) -> bytes:
    """Time of each operator in each graph, and what its products would take at best; PNG."""
    figure = new_figure(5.2 * len(graphs), 4.2)
    for axes, (name, graph) in zip(figure.subplots(1, len(graphs)), graphs.items(), strict=True):
        rows = graph["operators"][:CHART_OPERATORS]
        labels = [f"{row['operator']} ({row['nodes']})" for row in rows]
        ideal = [row["gflop"] / ceiling * 1e3 for row in rows]
        at_best = f"products at {ceiling:.0f} GFLOP/s"
        axes.barh(labels, [row["time_us"] / 1e3 for row in rows], color="0.75", label="measured")
        axes.barh(labels, ideal, height=0.4, color="tab:blue", label=at_best)
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds")
        axes.set_title(f"{name}, {graph['time_us'] / 1e3:.1f} ms", fontsize=10)
        axes.legend(fontsize=8, loc="lower right")
    return png_bytes(figure)


def command(
    bundle: BundlePath = None,
    threads: recipe.Threads = 2,
    rounds: Annotated[int, typer.Option(min=1, help="How often each graph gets its turn.")] = 20,
    runs: Annotated[int, typer.Option(min=1, help="Runs per turn.")] = 5,
    output: recipe.Output = None,
    chart: Annotated[Path, typer.Option(help="The chart, PNG.")] = (
        ROOT / "docs" / "images" / "operator_profile.png"
    ),
) -> None:
    """Profile both graphs of a bundle, operator by operator."""
    box = json.loads((ROOT / "examples" / "prompts.json").read_text())[IMAGE]
    workload = Workload(read_image(ROOT / "examples" / IMAGE), box)
    opened = Bundle.open(bundle)
    product = LargeProduct(threads)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: cpu_session(opened.read_graph(name), threads, profile=f"{folder}/{name}")
            for name in (IMAGE_ENCODER, MASK_DECODER)
        }
        frames = {"image": workload.frames(1)}
        (embeddings,) = sessions[IMAGE_ENCODER].run(None, frames)
        decoder_feeds = dict(workload.decoder_feeds(opened, embeddings, 1))
        feeds = {IMAGE_ENCODER: frames, MASK_DECODER: decoder_feeds}
        for _ in range(rounds):
            product.run()
            for name, session in sessions.items():
                for _ in range(runs):
                    session.run(None, feeds[name])
        nodes = {name: read_profile(each.end_profiling()) for name, each in sessions.items()}
    ceiling = product.gflop_per_s
    graphs = {name: summary(each, ceiling) for name, each in nodes.items()}
    recipe.print_rows(
        f"limit {ceiling:.0f} GFLOP/s", ({"graph": name, **row} for name, row in graphs.items())
    )
    for name, graph in graphs.items():
        recipe.print_rows(name, graph["operators"])
    document = {
        "threads": threads,
        "runs": rounds * runs,
        "percentile_of_times": PERCENTILE,
        "ceiling_gflop_per_s": round(ceiling, 1),
        "ceiling_product": [SIDE] * 3,
        "graphs": graphs,
    }
    recipe.write_results(__file__, document, output)
    chart.write_bytes(draw(graphs, ceiling))


if __name__ == "__main__":
    typer.run(command)
