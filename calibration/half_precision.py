"""Mixed half precision written into a graph: which nodes keep float32, and the casts between.

This is our own pass, since ready-made converters cannot say which nodes they keep and why, insert
a cast per reader, and do not know quantised graphs, whose Q/DQ pairs change type with their scales.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import (
    AttributeProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
    shape_inference,
)

from samus_edge.errors import BadArgumentError

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16

HALF_MAX = 65504.0
HALF_MIN = 2.0**-24

HEADROOM = 8.0
"""How far a tensor may grow beyond its range on calibration frames before it overflows."""

SENSITIVE_OPERATORS = ("LayerNormalization", "Softmax", "ReduceMean")
"""Sums over many elements, which lose accuracy or overflow in half precision."""

SENSITIVE_PREFIXES = ("preprocessing/", "prompt_encoder/pe_layer/", "prompt_encoder/Add")
"""Grey levels and pixel coordinates: sines of large angles, minima and maxima that must agree."""

QUANTISATION_OPERATORS = ("QuantizeLinear", "DequantizeLinear")

# Which inputs of an operator are float32 in every case
_FLOAT32_INPUTS: Mapping[str, tuple[int, ...]] = {"Resize": (1, 2)}


@dataclass(frozen=True)
class KeptNode:
    """A node that keeps float32.

    Attributes:
        name: name of the node.
        reason: "operator", "coordinates and grey levels", or "range": a tensor may overflow, or a
            constant would become zero.
    """

    name: str
    reason: str


def float_tensors(model: ModelProto) -> set[str]:
    """Names of all float32 tensors of a graph: inputs, initialisers and what nodes give.

    Raises:
        BadArgumentError: if a tensor's type cannot be told.
    """
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    graph = inferred.graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    types |= {item.name: item.data_type for item in graph.initializer}
    unknown = sorted(
        name for node in graph.node for name in node.output if name and not types.get(name)
    )
    if unknown:
        raise BadArgumentError(f"the types of these tensors are unknown: {', '.join(unknown)}.")
    # value_info may name tensors that no node gives any more
    present = {name for node in graph.node for name in (*node.input, *node.output)}
    return {name for name, kind in types.items() if kind == FLOAT and name in present}


def nodes_to_keep(model: ModelProto, max_abs: Mapping[str, float]) -> list[KeptNode]:
    """The nodes of a float32 graph that half precision would hurt.

    Args:
        model: a float32 graph with weights as initialisers.
        max_abs: greatest magnitude of each float tensor but the initialisers, on real frames.

    Returns:
        In the graph's order.
    """
    unfit = {name for name, largest in max_abs.items() if largest * HEADROOM > HALF_MAX}
    for item in model.graph.initializer:
        if item.data_type == FLOAT:
            largest = float(np.abs(numpy_helper.to_array(item)).max(initial=0))
            # constants do not grow; of those that become zero, some are divided by
            if largest > HALF_MAX or 0 < largest < HALF_MIN:
                unfit.add(item.name)
    kept = []
    for node in model.graph.node:
        tensors = (*node.input, *node.output)
        if node.op_type in SENSITIVE_OPERATORS:
            kept.append(KeptNode(node.name, "operator"))
        elif node.name.startswith(SENSITIVE_PREFIXES):
            kept.append(KeptNode(node.name, "coordinates and grey levels"))
        elif not unfit.isdisjoint(tensors):
            kept.append(KeptNode(node.name, "range"))
    return kept


def to_half_precision(model: ModelProto, kept: Collection[str]) -> ModelProto:
    """A copy of a graph that computes in half precision, except for some nodes.

    Inputs and outputs of the graph keep their types. Q/DQ pairs that only kept nodes read stay in
    float32 with them: what overflows half precision would overflow there.

    Args:
        model: a float32 graph with weights as initialisers; Q/DQ pairs may be in it.
        kept: names of the nodes that compute in float32.
    """
    floats = float_tensors(model)
    kept = _with_quantisation(model, kept)
    converted = ModelProto()
    converted.CopyFrom(model)
    graph = converted.graph
    outputs = {value.name for value in graph.output}
    initializers = {item.name: item for item in graph.initializer}
    types = {name: FLOAT for name in floats}
    casts: dict[tuple[str, int], str] = {}
    nodes: list[NodeProto] = []
    tensors: dict[str, TensorProto] = {}

    half_reads: set[str] = set()
    for node in graph.node:
        if node.name not in kept:
            fixed = _FLOAT32_INPUTS.get(node.op_type, ())
            half_reads.update(name for index, name in enumerate(node.input) if index not in fixed)

    def read(name: str, kind: int) -> str:
        """The name under which a float tensor is found in a type."""
        if name in initializers:
            stored = f"{name}/fp32" if kind == FLOAT and name in half_reads else name
            tensors.setdefault(stored, _as_type(initializers[name], stored, kind))
            return stored
        if types[name] == kind:
            return name
        if (name, kind) not in casts:
            target = f"{name}/{'fp16' if kind == HALF else 'fp32'}"
            nodes.append(helper.make_node("Cast", [name], [target], name=f"{target}/Cast", to=kind))
            casts[name, kind] = target
        return casts[name, kind]

    for node in list(graph.node):
        kind = FLOAT if node.name in kept else HALF
        for index, name in enumerate(node.input):
            if name not in floats:
                if name in initializers:
                    tensors.setdefault(name, initializers[name])
                continue
            is_fixed = index in _FLOAT32_INPUTS.get(node.op_type, ())
            node.input[index] = read(name, FLOAT if is_fixed else kind)
        if kind == HALF:
            _retype_attributes(node)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in floats:
                continue
            types[name] = kind
            if name in outputs and kind == HALF:
                node.output[index] = f"{name}/fp16"
                casts[name, HALF] = f"{name}/fp16"
                types[name] = FLOAT
                nodes.append(
                    helper.make_node(
                        "Cast", [f"{name}/fp16"], [name], name=f"{name}/Cast", to=FLOAT
                    )
                )
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(tensors.values())
    del graph.value_info[:]
    return converted


def _with_quantisation(model: ModelProto, kept: Collection[str]) -> set[str]:
    """Kept nodes, and the Q/DQ nodes whose values go to kept nodes alone."""
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    outputs = {value.name for value in model.graph.output}
    extended = set(kept)
    for node in reversed(model.graph.node):
        if node.op_type not in QUANTISATION_OPERATORS or node.output[0] in outputs:
            continue
        if all(reader in extended for reader in readers.get(node.output[0], ())):
            extended.add(node.name)
    return extended


def _as_type(tensor: TensorProto, name: str, kind: int) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(values.astype(np.float16 if kind == HALF else np.float32), name)


def _retype_attributes(node: NodeProto) -> None:
    """Let a node that makes float32 by an attribute make half precision instead."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = HALF
        elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == FLOAT:
            attribute.t.CopyFrom(_as_type(attribute.t, attribute.t.name, HALF))
