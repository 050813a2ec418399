"""The ranges of the values that a graph's tensors take on real frames."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from samus_edge.errors import BadArgumentError
from samus_edge.export.graph_cleanup import open_graph

GROUP_BYTES = 512 * 2**20
"""Activations that are held at once, on the largest sample; all of a vit_b encoder's would be
several GB. A single tensor may be larger."""

FLOAT32_BYTES = 4

Feeds = Mapping[str, npt.NDArray[np.generic]]
Ranges = dict[str, tuple[float, float]]


def measure_ranges(
    model: ModelProto,
    tensors: Sequence[str],
    samples: Sequence[Feeds],
    *,
    group_bytes: int = GROUP_BYTES,
) -> Ranges:
    """Run a graph on samples and take the least and the greatest value of some of its tensors.

    Tensors are measured in groups that fit in memory, each of which runs all samples.

    Args:
        model: a float32 graph.
        tensors: names of float tensors, inputs of the graph among them.
        samples: inputs by name, at least one.
        group_bytes: largest size of a group's tensors on the largest sample.

    Returns:
        (low, high) by tensor, in the order of ``tensors``; zero is in every range, so that it is on
        the grid of each.

    Raises:
        BadArgumentError: if there are no samples, or a tensor holds a value that is not finite;
            names it.
    """
    if not samples:
        raise BadArgumentError("samples must hold at least one sample, got none.")
    ranges: Ranges = dict.fromkeys(tensors, (0.0, 0.0))
    for group in _groups(model, tensors, samples, group_bytes):
        for name, values in _values(model, group, samples):
            if not values.size:
                continue
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise BadArgumentError(
                    f"tensor {name!r} holds NaN or infinite values on a calibration frame. "
                    "The graph is broken in float32 already: check the weights."
                )
            ranges[name] = (min(low, ranges[name][0]), max(high, ranges[name][1]))
    return ranges


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


def _values(
    model: ModelProto, tensors: Sequence[str], samples: Sequence[Feeds]
) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    """Each tensor of each sample."""
    inputs = {value.name for value in model.graph.input}
    computed = [name for name in tensors if name not in inputs]
    session = open_graph(model, computed) if computed else None
    for feeds in samples:
        values = dict(feeds)
        if session is not None:
            values |= zip(computed, session.run(computed, values), strict=True)
        for name in tensors:
            yield name, values[name]
