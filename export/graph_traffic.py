"""What a graph moves: bytes that its nodes read and write, counted from the sizes of a run."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from samus_edge.export.graph_run import tensor_sizes

__all__ = ["GraphTraffic", "count_traffic"]


@dataclass(frozen=True)
class GraphTraffic:
    """Bytes of one run.

    Attributes:
        weights: of the constants that nodes read, each once.
        inputs: of the graph.
        outputs: of the graph.
        between: what nodes write for other nodes, and those read again, each node by itself.
    """

    weights: int
    inputs: int
    outputs: int
    between: int

    @property
    def least(self) -> int:
        """What has to be moved even if all that is between nodes stays in caches."""
        return self.weights + self.inputs + self.outputs

    @property
    def most(self) -> int:
        """What is moved if every node reads from memory and writes to it."""
        return self.least + self.between


def count_traffic(model: ModelProto, feeds: Mapping[str, npt.NDArray[np.generic]]) -> GraphTraffic:
    """Count the bytes that a graph moves in one run, in the dtypes of its tensors.

    Args:
        model: the graph, without subgraphs.
        feeds: inputs by name; their shapes are those that are counted for.
    """
    graph = model.graph
    constants = {item.name: numpy_helper.to_array(item).nbytes for item in graph.initializer}
    outputs = [value.name for value in graph.output]
    written = [name for node in graph.node for name in node.output if name]
    sizes = {name: size.nbytes for name, size in tensor_sizes(model, written, feeds).items()}
    used = {name for node in graph.node for name in node.input if name}
    reads = [name for node in graph.node for name in node.input if name in sizes]
    between = sum(sizes[name] for name in written if name not in outputs)
    between += sum(sizes[name] for name in reads)
    return GraphTraffic(
        weights=sum(size for name, size in constants.items() if name in used),
        inputs=sum(np.asarray(value).nbytes for value in feeds.values()),
        outputs=sum(sizes[name] for name in outputs),
        between=between,
    )
