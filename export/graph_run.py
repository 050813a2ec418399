"""One run of a graph that also shows what is between its nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, ValueInfoProto

__all__ = ["TensorSize", "tensor_sizes"]


@dataclass(frozen=True)
class TensorSize:
    """How large a tensor is.

    Attributes:
        shape: of it.
        nbytes: in memory.
    """

    shape: tuple[int, ...]
    nbytes: int


def tensor_sizes(
    model: ModelProto, tensors: Sequence[str], feeds: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, TensorSize]:
    """Run a graph and see how large its tensors are.

    It is run, since neither shape inference follows sizes through all of a graph's arithmetic.

    Args:
        model: the graph.
        tensors: names, of outputs or of what nodes give to each other.
        feeds: inputs by name.
    """
    outputs = model.graph.output
    present = {value.name for value in outputs}
    added = [ValueInfoProto(name=name) for name in tensors if name not in present]
    # In place, since a copy of a large graph is half a gigabyte more.
    outputs.extend(added)
    try:
        content = model.SerializeToString()
    finally:
        del outputs[len(outputs) - len(added) :]
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of weights
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    del content
    values = session.run(list(tensors), dict(feeds))
    return {
        name: TensorSize(np.shape(value), np.asarray(value).nbytes)
        for name, value in zip(tensors, values, strict=True)
    }
