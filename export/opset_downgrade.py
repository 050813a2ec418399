"""Graphs of operator set 20 rewritten for older ones, down to 17."""

import math

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from samus_edge.export.graph_cleanup import complete_resize_sizes, remove_unused

OLDEST_OPSET = 17
"""The first with LayerNormalization as one node."""

GELU_OPSET = 20
AXES_OPSET = 18
"""The first in which Resize and Pad have axes, and reductions to an extreme take theirs as an input."""

_NEW_RESIZE_ATTRIBUTES = ("antialias", "axes", "keep_aspect_ratio_policy")
_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin")


def downgrade(model: ModelProto, opset: int) -> None:
    """Rewrite the operators that an older operator set has not, in place.

    Gelu becomes its definition by Erf. For 17, the axes of Resize and Pad are written out and those
    of reductions become attributes. ONNX's own converter does not take these steps back.

    Args:
        model: of operator set 20, with the operators that `samus-edge export` writes; its Pad is of
            four axes.
        opset: from 17 to 19.
    """
    if opset < GELU_OPSET:
        _expand_gelu(model)
    if opset < AXES_OPSET:
        complete_resize_sizes(model)
        constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Resize":
                _drop_attributes(node, _NEW_RESIZE_ATTRIBUTES)
            elif node.op_type == "Pad" and len(node.input) == 4:
                pads = _pads_of_all_axes(constants[node.input[1]], constants[node.input[3]])
                name = f"{node.name}/pads"
                model.graph.initializer.append(numpy_helper.from_array(pads, name))
                value = node.input[2]
                _replace_inputs(node, [node.input[0], name, *([value] if value else [])])
            elif node.op_type in _REDUCTIONS and len(node.input) == 2:
                axes = constants[node.input[1]].tolist()
                node.attribute.append(helper.make_attribute("axes", axes))
                _replace_inputs(node, [node.input[0]])
            elif node.op_type == "Split":
                _drop_attributes(node, ("num_outputs",))  # equal parts are the default
    for operator_set in model.opset_import:
        if operator_set.domain == "":
            operator_set.version = opset
    remove_unused(model)


def _expand_gelu(model: ModelProto) -> None:
    """Gelu(x) = x * (0.5 + 0.5 * erf(x / sqrt 2)), which runtimes fuse again."""
    graph = model.graph
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "Gelu":
            nodes.append(node)
            continue
        (x,), (y,), name = node.input, node.output, node.name
        nodes += [
            helper.make_node("Div", [x, "gelu/sqrt2"], [f"{name}/scaled"], name=f"{name}/Div"),
            helper.make_node("Erf", [f"{name}/scaled"], [f"{name}/erf"], name=f"{name}/Erf"),
            helper.make_node(
                "Add", [f"{name}/erf", "gelu/one"], [f"{name}/sum"], name=f"{name}/Add"
            ),
            helper.make_node("Mul", [x, f"{name}/sum"], [f"{name}/twice"], name=f"{name}/Mul"),
            helper.make_node("Mul", [f"{name}/twice", "gelu/half"], [y], name=f"{name}/Mul_1"),
        ]
    if len(nodes) > len(graph.node):
        for name, value in (("sqrt2", math.sqrt(2.0)), ("one", 1.0), ("half", 0.5)):
            tensor = helper.make_tensor(f"gelu/{name}", TensorProto.FLOAT, [], [value])
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(nodes)


def _pads_of_all_axes(
    pads: npt.NDArray[np.int64], axes: npt.NDArray[np.int64], rank: int = 4
) -> npt.NDArray[np.int64]:
    """Begins of all axes, then ends, from those of some axes."""
    begins, ends = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    begins[axes], ends[axes] = np.split(pads, 2)
    return np.concatenate((begins, ends))


def _drop_attributes(node: NodeProto, names: tuple[str, ...]) -> None:
    kept = [item for item in node.attribute if item.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _replace_inputs(node: NodeProto, inputs: list[str]) -> None:
    del node.input[:]
    node.input.extend(inputs)
