"""What values the tensors of a graph take on real frames."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper

BINS = 2048

GROUP_BYTES = 512 * 2**20
"""Activations that are held at once, on the largest sample; all of a vit_b encoder's would be
several GB. A single tensor may be larger."""

FLOAT32_BYTES = 4

Feeds = Mapping[str, npt.NDArray[np.generic]]
Counts = npt.NDArray[np.int64]
Read = Callable[[Feeds], Iterator[tuple[str, npt.NDArray[np.float64]]]]


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
    group_bytes: int = GROUP_BYTES,
    on_sample: Callable[[], None] = lambda: None,
) -> dict[str, TensorStatistics]:
    """Run a graph on samples and take statistics of some of its tensors.

    The samples are run twice: for the ranges, then for histograms over them. Tensors are measured in
    groups that fit in memory, each of which runs all samples; of one sample at a time.

    Args:
        model: a float32 graph.
        tensors: names of float tensors, inputs of the graph among them.
        samples: inputs by name, at least one.
        histograms: False for the ranges alone; counts are then all zero.
        group_bytes: how much the tensors of a group may take on the largest sample.
        on_sample: called after each run.

    Returns:
        Statistics by tensor, in the order of ``tensors``. A tensor without elements has the range
        from 0 to 0.

    Raises:
        ValueError: if there are no samples, or a tensor holds a value that is not finite; names it.
    """
    if not samples:
        raise ValueError("samples must hold at least one sample, got none.")
    inputs = {value.name for value in model.graph.input}
    fed = [name for name in tensors if name in inputs]
    computed = [name for name in tensors if name not in inputs]
    found = _measure(_reader_of_feeds(fed), fed, samples, histograms, on_sample) if fed else {}
    for group in _groups(model, computed, samples, group_bytes):
        found |= _measure(_reader(model, group), group, samples, histograms, on_sample)
    return {name: found[name] for name in tensors}


def _measure(
    read: Read,
    tensors: Sequence[str],
    samples: Sequence[Feeds],
    histograms: bool,
    on_sample: Callable[[], None],
) -> dict[str, TensorStatistics]:
    ranges: dict[str, tuple[float, float]] = {}
    for feeds in samples:
        for name, values in read(feeds):
            if not values.size:
                continue
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(
                    f"tensor {name!r} holds NaN or infinite values on a calibration frame. "
                    "The graph is broken in float32 already: check the weights."
                )
            old_low, old_high = ranges.get(name, (low, high))
            ranges[name] = (min(low, old_low), max(high, old_high))
        on_sample()
    ranges = {name: ranges.get(name, (0.0, 0.0)) for name in tensors}
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    for feeds in samples if histograms else ():
        for name, values in read(feeds):
            if ranges[name][0] < ranges[name][1]:
                counts[name] += np.histogram(values, BINS, ranges[name])[0]
            else:
                counts[name][0] += values.size
        on_sample()
    return {name: TensorStatistics(*ranges[name], counts[name]) for name in tensors}


def _groups(
    model: ModelProto, tensors: Sequence[str], samples: Sequence[Feeds], group_bytes: int
) -> list[list[str]]:
    """Tensors in groups that take no more than some bytes each, on the largest sample."""
    if not tensors:
        return []
    largest = max(samples, key=lambda feeds: sum(value.nbytes for value in feeds.values()))
    sizes = [helper.make_node("Size", [name], [f"{name}/size"]) for name in tensors]
    session = _session(model, [f"{name}/size" for name in tensors], TensorProto.INT64, sizes)
    elements = session.run([f"{name}/size" for name in tensors], dict(largest))
    groups: list[list[str]] = [[]]
    taken = 0
    for name, count in zip(tensors, elements, strict=True):
        size_bytes = FLOAT32_BYTES * int(count)
        if groups[-1] and taken + size_bytes > group_bytes:
            groups.append([])
            taken = 0
        groups[-1].append(name)
        taken += size_bytes
    return groups


def _session(
    model: ModelProto, tensors: Sequence[str], kind: int, nodes: Sequence[NodeProto] = ()
) -> ort.InferenceSession:
    """A session that gives tensors of one type, some of them by further nodes."""
    shown = ModelProto()
    shown.CopyFrom(model)
    shown.graph.node.extend(nodes)
    present = {value.name for value in shown.graph.output}
    shown.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None) for name in tensors if name not in present
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    return ort.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _reader(model: ModelProto, tensors: Sequence[str]) -> Read:
    session = _session(model, tensors, TensorProto.FLOAT)

    def read(feeds: Feeds) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        # in float64, since numpy refuses to bin float32 values that are all but equal
        for name, values in zip(tensors, session.run(list(tensors), dict(feeds)), strict=True):
            yield name, values.astype(np.float64)

    return read


def _reader_of_feeds(tensors: Sequence[str]) -> Read:
    def read(feeds: Feeds) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        for name in tensors:
            yield name, np.asarray(feeds[name], np.float64)

    return read
