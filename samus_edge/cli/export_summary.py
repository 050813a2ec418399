"""What `samus-edge export` prints about a bundle that it wrote."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rich.console import Console

    from samus_edge.export.parity import ParityReport
    from samus_edge.runtime.bundle import Bundle
    from samus_edge.runtime.graph_record import GraphRecord

__all__ = ["print_summary"]

TYPICAL_SIZES = {"batch": 1, "height": 480, "width": 640, "prompts": 1, "points": 2}
"""For which operations are counted: one frame, one box."""


def print_summary(console: "Console", bundle: "Bundle", parity: "ParityReport") -> None:
    """Print graphs, inputs and outputs, operations, and parity.

    Args:
        console: where to.
        bundle: as it was written.
        parity: of its float32 graphs with torch.
    """
    from rich.markup import escape
    from rich.table import Table

    manifest = bundle.manifest
    table = Table(title=escape(f"{bundle.path}: {manifest.name}"), title_justify="left")
    for column in ("graph", "precision", "MB", "weights", "opset", "GFLOP"):
        table.add_column(column)
    gflop: dict[str, str] = {}
    for name, record in manifest.graphs.items():
        if record.precision == "fp32":
            gflop[name] = f"{_gflop(bundle, name, record):.2f}"
        size = f"{record.size_bytes / 1e6:.2f}"
        base = name.split(".")[0]
        table.add_row(
            *(name, record.precision, size, record.weight_storage, str(record.opset)),
            gflop.get(base, ""),
        )
    console.print(table)
    for name, record in manifest.graphs.items():
        if name not in gflop:
            continue  # conversions take and give the same
        console.print(name, highlight=False)
        for arrow, specs in (("in ", record.inputs), ("out", record.outputs)):
            for spec in specs:
                console.print(f"  {arrow} {spec}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"parity with torch on {parity.frames} frames, {parity.prompts} prompts: logits within "
        f"{parity.max_abs_logit_error:.1e}, worst mask IoU {parity.min_mask_iou:.5f}",
        highlight=False,
        soft_wrap=True,
    )


def _gflop(bundle: "Bundle", name: str, record: "GraphRecord") -> float:
    """Of one frame, or one box."""
    import onnx

    from samus_edge.export.graph_cost import GFLOP, count_flop

    feeds: dict[str, npt.NDArray[np.generic]] = {
        spec.name: np.zeros(
            [size if isinstance(size, int) else TYPICAL_SIZES.get(size, 1) for size in spec.shape],
            spec.dtype,
        )
        for spec in record.inputs
    }
    return sum(count_flop(onnx.load_from_string(bundle.read_graph(name)), feeds).values()) / GFLOP
