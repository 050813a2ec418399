"""Operations that a graph takes."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from samus_edge.export.graph_cleanup import tensor_values

GFLOP = 1e9

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def count_flop(model: ModelProto, feeds: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, int]:
    """Floating-point operations of the matrix products and convolutions of one run.

    A multiplication and its addition count as two. What is no matrix product (normalisation,
    activation, resizing) is left out, as in published figures. The graph is run once.

    Args:
        model: a float32 graph.
        feeds: inputs by name; their shapes are those that are counted for.

    Returns:
        Operations by node name, of the nodes that have any, in the graph's order.
    """
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    constants = {item.name: tuple(item.dims) for item in model.graph.initializer}
    shown = [
        name
        for node in products
        for name in (*node.input[:2], node.output[0])
        if name not in constants and name not in feeds
    ]
    shapes = constants | {name: np.shape(value) for name, value in feeds.items()}
    values = tensor_values(model, list(dict.fromkeys(shown)), feeds)
    shapes |= {name: value.shape for name, value in values.items()}
    return {node.name: _flop_of(node, shapes) for node in products}


def _flop_of(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second = shapes[node.input[0]], shapes[node.input[1]]
    out = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return 2 * out * math.prod(second[1:])  # weights are (out, in / groups, ...)
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(first) * math.prod(second[1:])  # weights are (in, out / groups, ...)
    if node.op_type == "Gemm":
        is_transposed = any(item.name == "transA" and item.i for item in node.attribute)
        return 2 * out * first[-2 if is_transposed else -1]
    return 2 * out * first[-1]
