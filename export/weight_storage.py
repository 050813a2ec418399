"""Lossless compact storage of a graph's weights: half precision with a cast to float32."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from torch import nn

MIN_ROUNDED_SIZE = 256
"""Tensors with fewer elements keep float32: they take no room and vectors are sensitive."""


def round_weights(model: "nn.Module") -> None:
    """Round large parameters to half precision, in place; vectors and small tensors stay.

    The graph then computes in float32 with exactly these values, and `store_compactly` stores them
    without loss.
    """
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and parameter.numel() >= MIN_ROUNDED_SIZE:
                parameter.copy_(parameter.half().float())


MIN_STORED_SIZE = 1024


def store_compactly(model: ModelProto) -> None:
    """Store float32 initialisers whose values all are half-precision numbers as such, in place.

    A Cast brings them back. ONNX Runtime, OpenVINO and TensorRT compute it when they load or build
    the graph, which then runs in float32 at full speed. Other tensors stay float32; `round_weights`
    makes their values fit. int8 behind DequantizeLinear would be smaller, but ONNX Runtime 1.17 to
    1.20 and TensorRT dequantise it in every run, and ONNX Runtime 1.32 rounds the activations too.

    Args:
        model: a model whose initialisers are in the graph, not in external files.
    """
    nodes: list[NodeProto] = []
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        values, name = numpy_helper.to_array(initializer), initializer.name
        if values.size < MIN_STORED_SIZE:
            continue
        with np.errstate(over="ignore"):  # to infinity, which is not equal
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            initializer.CopyFrom(numpy_helper.from_array(half, f"{name}.fp16"))
            nodes.append(
                helper.make_node(
                    "Cast", [f"{name}.fp16"], [name], name=f"{name}/cast", to=TensorProto.FLOAT
                )
            )
    _replace(model.graph.node, [*nodes, *model.graph.node])


def expand_weights(model: ModelProto) -> None:
    """Undo `store_compactly`, in place: every weight is a float32 initialiser again.

    Casts of constants to float32 and products of float32 constants are computed; nothing else
    writes them. Products are of bundles of version 0.1, which stored matrices of the mask decoder
    as int8 steps times a scale.

    Args:
        model: a model whose initialisers are in the graph, not in external files.
    """
    graph = model.graph
    tensors = {item.name: item for item in graph.initializer}
    places = {name: number for number, name in enumerate(tensors)}
    rest = []
    for node in graph.node:
        inputs = [tensors[name] for name in node.input if name in tensors]
        if len(inputs) == len(node.input) and _is_storage(node, inputs):
            values = [numpy_helper.to_array(item).astype(np.float32) for item in inputs]
            product = np.asarray(values[0] if len(values) == 1 else values[0] * values[1])
            tensors[node.output[0]] = numpy_helper.from_array(product, node.output[0])
            places[node.output[0]] = places[node.input[0]]
        else:
            rest.append(node)
    used = {name for node in rest for name in node.input}
    used |= {value.name for value in graph.output}
    _replace(graph.node, rest)
    kept = sorted(used & tensors.keys(), key=places.__getitem__)
    _replace(graph.initializer, [tensors[name] for name in kept])


def _is_storage(node: NodeProto, inputs: list[TensorProto]) -> bool:
    if node.op_type == "Cast":
        return any(item.name == "to" and item.i == TensorProto.FLOAT for item in node.attribute)
    return node.op_type == "Mul" and all(item.data_type == TensorProto.FLOAT for item in inputs)


def _replace(field: Any, items: Iterable[Any]) -> None:
    """Exchange the items of a repeated field."""
    items = list(items)
    del field[:]
    field.extend(items)
