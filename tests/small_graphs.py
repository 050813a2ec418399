"""Small ONNX graphs for tests, and their outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]


def model_of(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, npt.NDArray[Any]],
    inputs: Mapping[str, int] | None = None,
    output: str = "y",
    *,
    rank: int | None = None,
) -> ModelProto:
    """A model of float32 tensors of any size.

    Args:
        nodes: its nodes.
        constants: its initialisers.
        inputs: ranks of the inputs by name; None for ``x`` of rank 2.
        output: name of the output.
        rank: rank of the output; None for the largest of the inputs.
    """
    inputs = {"x": 2} if inputs is None else inputs
    rank = max(inputs.values()) if rank is None else rank
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * size)
            for name, size in inputs.items()
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    # the file format that the oldest supported ONNX Runtime reads
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: ModelProto, **feeds: Array) -> Array:
    """The first output, with every node computed as it is written."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    # else casts to half precision and back are taken out
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    output: Array = session.run(None, feeds)[0]
    return output
