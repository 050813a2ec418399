"""How much the graphs of a bundle compute and move."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from samus_edge.benchmarking.subject import IMAGE_ENCODER, MASK_DECODER
from samus_edge.benchmarking.workload import Workload
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_record import GraphRecord

__all__ = ["GraphWork", "work_of_bundle"]


@dataclass(frozen=True)
class GraphWork:
    """Of one frame, or one box; in the dtypes of the reference graphs, float32.

    Attributes:
        flop: multiplications and additions of matrix products and convolutions.
        weight_bytes: of the constants.
        least_bytes: that have to be moved: weights, inputs, outputs.
        most_bytes: moved if no node keeps anything in caches for the next.
    """

    flop: int
    weight_bytes: int
    least_bytes: int
    most_bytes: int

    @property
    def intensity(self) -> float:
        """Operations per byte that has to be moved."""
        return self.flop / self.least_bytes

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {**asdict(self), "flop_per_byte": round(self.intensity, 1)}


def work_of_bundle(bundle: Bundle, workload: Workload) -> dict[str, GraphWork]:
    """Count for image encoder and mask decoder, by name.

    Args:
        bundle: opened.
        workload: whose frame and box are counted for.

    Raises:
        ImportError: without the package onnx.
    """
    import onnx

    from samus_edge.export.graph_cost import count_flop
    from samus_edge.export.graph_traffic import count_traffic

    records = {name: bundle.graph_record(name) for name in (IMAGE_ENCODER, MASK_DECODER)}
    embeddings = _embeddings(records[IMAGE_ENCODER])
    feeds: dict[str, Mapping[str, Any]] = {
        IMAGE_ENCODER: {"image": workload.frames(1)},
        MASK_DECODER: workload.decoder_feeds(bundle, embeddings, 1),
    }
    work: dict[str, GraphWork] = {}
    for name in records:
        model = onnx.load_from_string(bundle.read_graph(name))
        traffic = count_traffic(model, feeds[name])
        flop = sum(count_flop(model, feeds[name]).values())
        work[name] = GraphWork(flop, traffic.weights, traffic.least, traffic.most)
    return work


def _embeddings(encoder: GraphRecord) -> npt.NDArray[np.float32]:
    (spec,) = (spec for spec in encoder.outputs if spec.name == "image_embeddings")
    return np.zeros([size if isinstance(size, int) else 1 for size in spec.shape], np.float32)
