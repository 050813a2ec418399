"""The values that a graph's tensors take on real frames, and the ranges of grids for them."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from samus_edge.errors import BadArgumentError, DataError
from samus_edge.export.graph_cleanup import open_graph
from samus_edge.runtime.images.output_files import write_files_atomically

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

    The samples are run twice: for the ranges, then for histograms over them. Tensors are measured
    in groups that fit in memory, each of which runs all samples; of one sample at a time.

    Args:
        model: a float32 graph.
        tensors: names of float tensors, inputs of the graph among them.
        samples: inputs by name, at least one.
        histograms: False for the ranges alone; counts are then all zero.
        group_bytes: largest size of a group's tensors on the largest sample.
        on_sample: called after each run.

    Returns:
        Statistics by tensor, in the order of ``tensors``. A tensor without elements has the range
        from 0 to 0.

    Raises:
        BadArgumentError: if there are no samples, or a tensor holds a value that is not finite;
            names it.
    """
    if not samples:
        raise BadArgumentError("samples must hold at least one sample, got none.")
    found: dict[str, TensorStatistics] = {}
    for group in _groups(model, tensors, samples, group_bytes):
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
                raise BadArgumentError(
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
    names = [f"{name}/size" for name in tensors]
    sizes = [
        helper.make_node("Size", [each], [name]) for each, name in zip(tensors, names, strict=True)
    ]
    elements = open_graph(model, names, sizes).run(names, dict(largest))
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


def _reader(model: ModelProto, tensors: Sequence[str]) -> Read:
    inputs = {value.name for value in model.graph.input}
    computed = [name for name in tensors if name not in inputs]
    session = open_graph(model, computed) if computed else None

    def read(feeds: Feeds) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        values = dict(feeds)
        if session is not None:
            values |= zip(computed, session.run(computed, values), strict=True)
        for name in tensors:
            # in float64, since numpy refuses to bin float32 values that are all but equal
            yield name, np.asarray(values[name], np.float64)

    return read


METHODS = ("minmax", "entropy", "percentile")
DEFAULT_PERCENTILE = 99.99

INT8_LEVELS = 128
"""Magnitudes of a symmetric int8 grid, as the entropy method counts them."""

ENTROPY_STEP = 16
"""Bins between two ranges that the entropy method tries: the divergence is smooth."""


@dataclass(frozen=True)
class RangeMethod:
    """How a range is chosen.

    Attributes:
        name: "minmax" covers every value; "entropy" cuts off what costs least information
            (Kullback-Leibler divergence, as TensorRT's calibrator did); "percentile" cuts off a
            share at either end.
        percentile: where "percentile" cuts, in (50, 100]: 99.99 leaves out the greatest 0.01 % of
            the values and the least 0.01 %.
    """

    name: str = "minmax"
    percentile: float = DEFAULT_PERCENTILE

    def __post_init__(self) -> None:
        """Check both."""
        if self.name not in METHODS:
            raise BadArgumentError(
                f"method must be one of {', '.join(METHODS)}, got {self.name!r}."
            )
        if not 50 < self.percentile <= 100:
            raise BadArgumentError(f"percentile must be in (50, 100], got {self.percentile}.")


def select_range(statistics: TensorStatistics, method: RangeMethod) -> tuple[float, float]:
    """The range (low, high) that a tensor's grid is to cover; low <= 0 <= high.

    Args:
        statistics: the tensor's statistics, histogram included.
        method: the way to choose.

    Returns:
        Within the tensor's own range, zero included, so that zero is on the grid.
    """
    low, high = statistics.minimum, statistics.maximum
    if method.name == "percentile":
        low, high = _percentile_range(statistics, method.percentile)
    elif method.name == "entropy":
        largest = _entropy_magnitude(statistics)
        low, high = max(low, -largest), min(high, largest)
    return min(low, 0.0), max(high, 0.0)


def _percentile_range(statistics: TensorStatistics, percentile: float) -> tuple[float, float]:
    tail = (100.0 - percentile) / 100.0
    cumulated = np.cumsum(statistics.counts) / statistics.counts.sum()
    edges = np.linspace(statistics.minimum, statistics.maximum, len(cumulated) + 1)
    first = int(np.searchsorted(cumulated, tail, side="right"))
    last = int(np.searchsorted(cumulated, 1.0 - tail, side="left"))
    return float(edges[first]), float(edges[min(last + 1, len(cumulated))])


def _entropy_magnitude(statistics: TensorStatistics) -> float:
    """The magnitude beyond which clipping loses least: minimum of the divergence over cut-offs."""
    counts = _magnitude_counts(statistics)
    width = statistics.max_abs / len(counts)
    best, best_divergence = len(counts), np.inf
    for end in (*range(INT8_LEVELS, len(counts), ENTROPY_STEP), len(counts)):
        divergence = _divergence(counts, end)
        if divergence < best_divergence:
            best, best_divergence = end, divergence
    return best * width


def _magnitude_counts(statistics: TensorStatistics) -> npt.NDArray[np.float64]:
    """Histogram of |x| over [0, max_abs], with bins as wide as those of x.

    With narrower ones every other bin would be empty, and look like information.
    """
    bins = len(statistics.counts)
    if statistics.max_abs == 0:
        return np.bincount([0], statistics.counts.sum()[None], bins).astype(np.float64)
    span = statistics.maximum - statistics.minimum
    if span > statistics.max_abs:
        bins = int(np.ceil(bins * statistics.max_abs / span))
    places = np.abs(statistics.bin_centres) / statistics.max_abs * bins
    indices = np.minimum(places.astype(np.int64), bins - 1)
    return np.bincount(indices, statistics.counts, bins).astype(np.float64)


def _divergence(counts: npt.NDArray[np.float64], end: int) -> float:
    """Divergence of the first ``end`` bins on 128 levels from the clipped histogram."""
    kept = counts[:end]
    clipped = kept.copy()
    clipped[-1] += counts[end:].sum()
    # every level stands for the bins that round to it, and spreads its count over those in use
    level = (np.arange(end) * INT8_LEVELS) // end
    used = kept > 0
    total = np.bincount(level, kept, INT8_LEVELS)
    bins_used = np.bincount(level, used, INT8_LEVELS)
    spread = np.where(used, total[level] / np.maximum(bins_used[level], 1), 0.0)
    if spread.sum() == 0:
        return float("inf")
    p, q = clipped / clipped.sum(), spread / spread.sum()
    both = (p > 0) & (q > 0)
    # what p has where q has nothing would be infinitely improbable: count it at a small chance
    lost = p[(p > 0) & (q == 0)]
    tiny = 1e-7
    return float((p[both] * np.log(p[both] / q[both])).sum() + (lost * np.log(lost / tiny)).sum())


FORMAT = "samus-edge-activation-statistics 2"

# What numpy and zipfile raise for files that are cut off, changed or something else altogether
_BROKEN = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)


def write_statistics(path: Path, key: str, statistics: Mapping[str, TensorStatistics]) -> None:
    """Write statistics to a file (.npz); a reader never sees half of it.

    Args:
        path: the file.
        key: identifies the graph and frames that were measured; reading asks for the same.
        statistics: statistics by tensor.

    Raises:
        OutputFileError: if it cannot be written.
    """
    content = BytesIO()
    np.savez_compressed(
        content,
        format=FORMAT,
        key=key,
        tensors=list(statistics),
        ranges=[(each.minimum, each.maximum) for each in statistics.values()],
        counts=[each.counts for each in statistics.values()],
    )
    write_files_atomically({path: content.getvalue()})


def read_statistics(
    path: Path, key: str, tensors: Sequence[str]
) -> dict[str, TensorStatistics] | None:
    """Read statistics that `write_statistics` wrote.

    Args:
        path: the file.
        key: identifies the graph and frames at hand.
        tensors: names of the tensors that are needed.

    Returns:
        Statistics by tensor; None if there is no file, or one of another graph, of other frames or
        without one of the tensors.

    Raises:
        DataError: if the file is no such file.
    """
    if not path.exists():
        return None
    try:
        # from memory, since numpy leaves a broken file open
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            if str(arrays["format"]) != FORMAT:
                raise ValueError(f"format {arrays['format']}, not {FORMAT}")
            names = arrays["tensors"].tolist()
            if str(arrays["key"]) != key or not set(tensors) <= set(names):
                return None
            found = {
                name: TensorStatistics(float(low), float(high), counts)
                for name, (low, high), counts in zip(
                    names, arrays["ranges"], arrays["counts"], strict=True
                )
            }
    except _BROKEN as err:
        raise DataError(
            f"{path} is no calibration cache ({err}). Delete it, or name another file."
        ) from err
    return {name: found[name] for name in tensors}
