"""Whether a graph that was changed for a server still computes what the bundle's graph computes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from samus_edge.errors import ExportMismatchError
from samus_edge.runtime.graph_record import GraphRecord, TensorSpec

__all__ = ["FP32_TOLERANCE", "QUANTISED_TOLERANCE", "check_served_graph"]

FP32_TOLERANCE = 1e-4
"""Largest absolute difference in float32: only the order of sums differs between batches and rows."""

QUANTISED_TOLERANCE = 0.02
"""In any other precision, as a share of the largest output: a sum in another order may round to
another step. Rows that were mixed up differ by about the largest output."""

_ROWS = 3
# Odd where an axis may have any size, so that paddings and remainders are in it.
_FREE_SIZE = 37
_POINTS = 3
_SEED = 0

Feeds = dict[str, npt.NDArray[Any]]


def check_served_graph(served: bytes, original: bytes, record: GraphRecord) -> float:
    """Run a changed graph on three rows at once, and the bundle's graph on each row alone.

    Rows are random: bytes for uint8, a normal distribution for float32, corners of a box for the
    points of a prompt. Each row has its own image embeddings, so a decoder that mixes rows, or gives
    all of them the first image, differs.

    Args:
        served: the changed graph, in one file.
        original: the bundle's graph, in one file.
        record: its record, for the inputs.

    Returns:
        The largest absolute difference of any output; logits and embeddings are of the order of 1 to
        30.

    Raises:
        ExportMismatchError: if an output differs by more than the tolerance of the record's precision,
            or is not a number.
    """
    rng = np.random.default_rng(_SEED)
    feeds = {spec.name: _random(spec, rng) for spec in record.inputs}
    batched = _run(served, feeds)
    largest = 0.0
    single = _session(original)
    for row in range(_ROWS):
        expected = single.run(None, {name: value[row : row + 1] for name, value in feeds.items()})
        for got, want in zip(batched, expected, strict=True):
            difference = float(np.abs(got[row : row + 1] - want).max())
            largest = difference if np.isnan(difference) else max(largest, difference)
            tolerance = FP32_TOLERANCE
            if record.precision != "fp32":
                tolerance = QUANTISED_TOLERANCE * float(np.abs(want).max())
            if not difference <= tolerance:  # also where it is not a number
                raise ExportMismatchError(
                    f"the graph made from {record.file} gives row {row} of {_ROWS} outputs that "
                    f"differ by {difference:.2e} from the bundle's, more than {tolerance:.1e}. "
                    "Export the bundle again; if that does not help, please report it."
                )
    return largest


def _run(graph: bytes, feeds: Feeds) -> list[npt.NDArray[np.float32]]:
    outputs: list[npt.NDArray[np.float32]] = _session(graph).run(None, feeds)
    return outputs


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _random(spec: TensorSpec, rng: np.random.Generator) -> npt.NDArray[Any]:
    """(3, ...) of random values for an input."""
    free_size = _POINTS if spec.name.startswith("point_") else _FREE_SIZE
    shape = (_ROWS, *(size if isinstance(size, int) else free_size for size in spec.shape[1:]))
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if spec.name == "point_coords":
        return rng.uniform(0, 255, shape).astype(np.float32)
    if spec.name == "point_labels":
        return np.tile(np.array([2, 3, 1], np.float32), (_ROWS, 1))
    if spec.name == "has_mask_input":
        return np.array([[0], [1], [1]], np.float32)
    return rng.standard_normal(shape, np.float32)
