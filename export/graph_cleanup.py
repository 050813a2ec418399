"""Making, changing and running ONNX graphs: tools that know no model."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from samus_edge import __version__
from samus_edge.runtime.backends.onnxruntime_backend import ort
from samus_edge.runtime.bundle.manifest import TensorSpec
from samus_edge.verification.comparison import open_onnx


def slice_constants(model: ModelProto) -> None:
    """Let slices take the place of every Gather of a constant, in place.

    Relative position biases are such: rows of a table by offsets that rise and fall by one. Engines
    compute slices of constants when they load or build the graph; TensorRT gathers for every frame.
    Constants of one shape are sliced together, since each node takes time when a graph is loaded.

    Args:
        model: a model whose constants are initialisers.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    alike: dict[tuple[int, str, tuple[int, ...]], list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Gather" and constants.keys() >= set(node.input):
            axis = next((item.i for item in node.attribute), 0)
            key = axis, node.input[1], tuple(constants[node.input[0]].dims)
            alike.setdefault(key, []).append(node)
    slices: list[NodeProto] = []
    for (axis, indices, shape), gathers in alike.items():
        runs = _runs(numpy_helper.to_array(constants[indices]).tolist())
        slices += _sliced(model, gathers, runs, axis, shape[axis])
    gathered = {node.output[0] for gathers in alike.values() for node in gathers}
    nodes = [node for node in graph.node if node.output[0] not in gathered]
    del graph.node[:]
    graph.node.extend([*slices, *nodes])
    remove_unused(model)


def _sliced(
    model: ModelProto, gathers: list[NodeProto], runs: list[tuple[int, int]], axis: int, size: int
) -> list[NodeProto]:
    """Nodes that slice the data of several Gathers along an axis of some size, all at once."""
    name = gathers[0].output[0]
    stacked = 0 if axis else 1
    data, parts, joined = f"{name}/data", [], f"{name}/joined"
    nodes = [
        helper.make_node("Concat", [each.input[0] for each in gathers], [data], data, axis=stacked)
    ]
    for index, (first, last) in enumerate(runs):
        step = 1 if first <= last else -1
        # An end before the first element is beyond the whole axis.
        end = last + step if last + step >= 0 else -size - 1
        parts.append(f"{name}/{index}")
        bounds = {"start": first, "end": end, "axis": axis, "step": step}
        for key, value in bounds.items():
            tensor = numpy_helper.from_array(np.array([value]), f"{parts[-1]}/{key}")
            model.graph.initializer.append(tensor)
        inputs = [data, *(f"{parts[-1]}/{key}" for key in bounds)]
        nodes.append(helper.make_node("Slice", inputs, parts[-1:], parts[-1]))
    outputs = [each.output[0] for each in gathers]
    nodes.append(helper.make_node("Concat", parts, [joined], joined, axis=axis))
    nodes.append(
        helper.make_node(
            "Split", [joined], outputs, f"{name}/split", axis=stacked, num_outputs=len(outputs)
        )
    )
    return nodes


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    """First and last index of every stretch that rises, or falls, by one from each to the next."""
    runs: list[tuple[int, int]] = []
    step: int | None = None
    for index in indices:
        change = index - runs[-1][1] if runs else None
        if runs and change in ((1, -1) if step is None else (step,)):
            runs[-1] = runs[-1][0], index
            step = change
        else:
            runs.append((index, index))
            step = None
    return runs


def remove_unused(model: ModelProto) -> None:
    """Remove nodes and initialisers that no output depends on, in place.

    Args:
        model: a model whose nodes are in order and hold no graphs of their own.
    """
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(reversed(kept))
    for items in (graph.initializer, graph.value_info):
        for index in reversed(range(len(items))):
            if items[index].name not in needed:
                del items[index]


OLDEST_OPSET = 17
"""The first with LayerNormalization as one node."""

GELU_OPSET = 20
AXES_OPSET = 18
"""The first in which Pad has axes, and ReduceMax takes its axes as an input."""

_NEW_RESIZE_ATTRIBUTES = ("antialias", "keep_aspect_ratio_policy")
_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin")


def downgrade(model: ModelProto, opset: int) -> None:
    """Rewrite the operators that an older operator set does not have, in place.

    Gelu becomes its definition by Erf. For 17, the axes of Pad are written out and those of
    reductions become attributes. ONNX's own converter does not take these steps back.

    Args:
        model: a graph of operator set 20, with the operators that `samus-edge export` writes; its
            Pad is of four axes.
        opset: the operator set to reach, from 17 to 19.
    """
    if opset < GELU_OPSET:
        _expand_gelu(model)
    if opset < AXES_OPSET:
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
                _drop_attributes(node, ("noop_with_empty_axes",))
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


def rendered(template: str, **values: object) -> str:
    """The text of a template in `templates/`, such as a graph in ONNX's text form."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("samus_edge.export"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def graph_file(model: ModelProto, name: str | None = None) -> bytes:
    """The bytes of a graph's file, which are the same for the same graph.

    Args:
        model: a graph; gets this package as its producer, and the oldest file format that has its
            operator set, since older ONNX Runtimes refuse newer ones: 1.17 takes IR version 9.
        name: the graph's new name; None to keep the one that it has.

    Raises:
        onnx.checker.ValidationError: if the graph is not valid.
    """
    if name is not None:
        model.graph.name = name
    model.producer_name, model.producer_version = "samus-edge", __version__
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def tensor_specs(values: Iterable[ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Names, types and shapes of a graph's inputs or outputs, batch axis included."""
    specs: list[TensorSpec] = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(size.dim_param or size.dim_value for size in tensor.shape.dim)
        specs.append(TensorSpec(value.name, dtype, shape))
    return tuple(specs)


def open_graph(
    model: ModelProto, shown: Sequence[str] = (), nodes: Sequence[NodeProto] = ()
) -> ort.InferenceSession:
    """A session on the CPU that can also give tensors from within a graph.

    Args:
        model: the graph; left as it is.
        shown: names of tensors that are outputs as well.
        nodes: further nodes, which may compute them.
    """
    graph = model.graph
    present = {value.name for value in graph.output}
    counts = len(graph.node), len(graph.output)
    # In place, since a copy of a large graph is half a gigabyte more.
    graph.node.extend(nodes)
    graph.output.extend(ValueInfoProto(name=name) for name in shown if name not in present)
    try:
        content = model.SerializeToString()
    finally:
        del graph.node[counts[0] :], graph.output[counts[1] :]
    return open_onnx(content)


def tensor_values(
    model: ModelProto, tensors: Sequence[str], feeds: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.generic]]:
    """Values of a graph's tensors; their shapes are more than shape inference can follow.

    Args:
        model: the graph.
        tensors: names of outputs, or of what nodes give to each other.
        feeds: inputs by name.
    """
    values = open_graph(model, tensors).run(list(tensors), dict(feeds))
    return {name: np.asarray(value) for name, value in zip(tensors, values, strict=True)}
