"""Kernels of TensorRT-RTX's engines by precision: what a frame and a box cost in launches.

`python benchmarks/engine_kernels.py --bundle calibrated`, without a GPU; see docs/precision.md for
a calibrated bundle. Engines are built for one frame of 480x640 and one prompt of two points, and
counted in the builder's own list of layers, in which what was fused is one.
"""

import logging
import re
from collections import Counter
from logging.handlers import BufferingHandler
from typing import Annotated

import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.options import BundlePath
from samus_edge.runtime import Bundle
from samus_edge.runtime.backends.tensorrt.engine_build import (
    EngineOptions,
    ShapeRange,
    build_engine,
)
from samus_edge.runtime.backends.tensorrt.tensorrt_library import find_tensorrt
from samus_edge.runtime.bundle.bundle import select_graphs

FRAMES = ShapeRange.fixed((480, 640))
NO_KERNEL = ("signal", "wait", "shape_call")  # between streams, and on the host
_LAYER = re.compile(r"^Name: [^,]*, LayerType: ([^,]*)", re.MULTILINE)


def kernels(bundle: Bundle, graph: str, compute_capability: str) -> Counter[str]:
    """The kernels of a graph's engine by their kind."""
    record = bundle.graph_record(graph)
    (profile, *_) = EngineOptions(frames=FRAMES, max_prompts=1, max_points=2).profiles(record)
    logger = logging.getLogger("samus_edge.runtime.backends.tensorrt.tensorrt_library")
    handler = BufferingHandler(1 << 30)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        build_engine(
            bundle.read_graph(graph),
            library=find_tensorrt("tensorrt_rtx"),
            name=graph,
            profiles=[profile],
            compute_capability=compute_capability,
            log_layers=True,
        )
    finally:
        logger.removeHandler(handler)
    messages = (record.getMessage() for record in handler.buffer)
    (layers,) = (each for each in messages if each.startswith("Layers:"))
    return Counter(kind for kind in _LAYER.findall(layers) if kind not in NO_KERNEL)


def command(
    bundle: BundlePath = None,
    compute_capability: Annotated[str, typer.Option(help="GPU to build for.")] = "8.6",
    output: recipe.Output = None,
) -> None:
    """Count the kernels of both engines in every precision that TensorRT takes."""
    opened = Bundle.open(bundle)
    offered = ["fp32", *opened.manifest.precisions]
    rows: list[dict[str, object]] = []
    for precision in ("fp32", "fp16", "int8"):
        if precision not in offered:
            continue
        graphs = select_graphs(opened, precision)
        for graph in (graphs.image_encoder, graphs.mask_decoder):
            counted = kernels(opened, graph, compute_capability)
            row = {"precision": precision, "graph": graph, "kernels": counted.total()}
            rows.append({**row, "kinds": dict(sorted(counted.items()))})
    recipe.print_rows(f"kernels for {compute_capability}", rows)
    document = {"compute_capability": compute_capability, "frame_hw": FRAMES.typical, "rows": rows}
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
