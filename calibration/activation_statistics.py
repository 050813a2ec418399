"""What values the tensors of a graph take on real frames."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

BINS = 2048

Feeds = Mapping[str, npt.NDArray[np.generic]]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """The values of one tensor over all samples.

    Attributes:
        minimum: least value.
        maximum: greatest value.
        counts: (BINS,), int64; values per bin of equal width from `minimum` to `maximum`.
    """

    minimum: float
    maximum: float
    counts: Counts

    @property
    def max_abs(self) -> float:
        """Greatest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def bin_centres(self) -> npt.NDArray[np.float64]:
        """(BINS,) values in the middle of the bins."""
        edges = np.linspace(self.minimum, self.maximum, len(self.counts) + 1)
        centres: npt.NDArray[np.float64] = (edges[:-1] + edges[1:]) / 2
        return centres


def measure_activations(
    model: ModelProto,
    tensors: Sequence[str],
    samples: Sequence[Feeds],
    *,
    histograms: bool = True,
    on_sample: Callable[[], None] = lambda: None,
) -> dict[str, TensorStatistics]:
    """Run a graph on samples and take statistics of some of its tensors.

    The samples are run twice: for the ranges, then for histograms over them. No more than one
    sample's tensors are in memory.

    Args:
        model: a float32 graph.
        tensors: names of float tensors, inputs of the graph among them.
        samples: inputs by name, at least one.
        histograms: False for the ranges alone; counts are then all zero.
        on_sample: called after each run.

    Returns:
        Statistics by tensor, in the order of ``tensors``.

    Raises:
        ValueError: if there are no samples, or a tensor holds a value that is not finite; names it.
    """
    if not samples:
        raise ValueError("samples must hold at least one sample, got none.")
    inputs = {value.name for value in model.graph.input}
    computed = [name for name in tensors if name not in inputs]
    session = _session(model, computed)
    ranges: dict[str, tuple[float, float]] = {}
    for feeds in samples:
        for name, values in _run(session, computed, feeds, tensors):
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(
                    f"tensor {name!r} holds NaN or infinite values on a calibration frame. "
                    "The graph is broken in float32 already: check the weights."
                )
            old_low, old_high = ranges.get(name, (low, high))
            ranges[name] = (min(low, old_low), max(high, old_high))
        on_sample()
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    for feeds in samples if histograms else ():
        for name, values in _run(session, computed, feeds, tensors):
            if ranges[name][0] < ranges[name][1]:
                counts[name] += np.histogram(values, BINS, ranges[name])[0]
            else:
                counts[name][0] += values.size
        on_sample()
    return {name: TensorStatistics(*ranges[name], counts[name]) for name in tensors}


def _session(model: ModelProto, tensors: Sequence[str]) -> ort.InferenceSession:
    shown = ModelProto()
    shown.CopyFrom(model)
    present = {value.name for value in shown.graph.output}
    shown.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in tensors
        if name not in present
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    return ort.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _run(
    session: ort.InferenceSession, computed: Sequence[str], feeds: Feeds, tensors: Sequence[str]
) -> Iterable[tuple[str, npt.NDArray[np.float32]]]:
    values = dict(zip(computed, session.run(list(computed), dict(feeds)), strict=True))
    for name in tensors:
        yield name, values[name] if name in values else np.asarray(feeds[name], np.float32)
