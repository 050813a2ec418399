"""Lossless compact storage of a graph's weights: half precision or int8 with a cast to float32."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from torch import Tensor, nn

from samus_edge.errors import BadArgumentError

MIN_ROUNDED_SIZE = 256
"""Tensors with fewer elements keep float32: they take no room and vectors are sensitive."""

INT8_MAX = 127


def round_weights(model: "nn.Module", *, int8: Iterable[str] = ()) -> None:
    """Round large parameters in place, to half precision or to an int8 grid.

    The graph then computes in float32 with exactly these values, and `store_compactly` stores them
    without loss.

    Args:
        model: the model; vectors and small tensors stay as they are.
        int8: names of (out, in) matrices that go to an int8 grid, symmetric, one scale per output.

    Raises:
        BadArgumentError: if a name in ``int8`` is no matrix of the model.
    """
    import torch

    parameters = dict(model.named_parameters())
    names = set(int8)
    wrong = sorted(name for name in names if name not in parameters or parameters[name].ndim != 2)
    if wrong:
        raise BadArgumentError(f"int8 must name matrices of the model, got {', '.join(wrong)}.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in names:
                parameter.copy_(round_to_int8_grid(parameter))
            elif parameter.ndim >= 2 and parameter.numel() >= MIN_ROUNDED_SIZE:
                parameter.copy_(parameter.half().float())


def round_to_int8_grid(matrix: "Tensor") -> "Tensor":
    """Round a matrix to ``scale[row] * q``, q an integer in -127..127.

    Scales are themselves half-precision numbers, so ``scale * q`` is exact in float32 and both can
    be read back from the product.

    Args:
        matrix: (out, in), float32.

    Returns:
        (out, in), float32.
    """
    import torch

    largest = matrix.abs().amax(dim=1, keepdim=True)
    scale = (largest / INT8_MAX).half().float()
    has_scale = scale > 0
    scale = torch.where(has_scale, scale, torch.ones_like(scale))
    steps = (matrix / scale).round().clamp(-INT8_MAX, INT8_MAX)
    # tiny scales have few bits; the row's largest value is 127 steps even so, or the scale could
    # not be read back
    is_largest = (matrix.abs() == largest) & has_scale
    return torch.where(is_largest, matrix.sign() * INT8_MAX, steps) * scale


MIN_STORED_SIZE = 1024
FloatArray = npt.NDArray[np.float32]


def store_compactly(model: ModelProto) -> None:
    """Replace float32 initialisers, in place, by smaller ones wherever that changes no value.

    A tensor whose values all are int8 multiples of one half-precision scale per row or column
    becomes Cast(int8) x Cast(scale); one whose values all are half-precision numbers becomes
    Cast(fp16). Runtimes fold these casts when they load the graph, so it computes in float32 at
    full speed. Tensors for which neither holds stay float32; `round_weights` makes it hold.

    Args:
        model: a model whose initialisers are in the graph, not in external files.
    """
    nodes: list[NodeProto] = []
    stored: list[TensorProto] = []
    for initializer in model.graph.initializer:
        compact = _compact(initializer)
        if compact is None:
            stored.append(initializer)
            continue
        new_nodes, new_tensors = compact
        nodes += new_nodes
        stored += new_tensors
    _replace(model.graph.initializer, stored)
    _replace(model.graph.node, [*nodes, *model.graph.node])


def expand_weights(model: ModelProto) -> None:
    """Undo `store_compactly`, in place: every weight is a float32 initialiser again.

    Casts of constants to float32 and products of float32 constants are computed; nothing else
    writes them.

    Args:
        model: a model whose initialisers are in the graph, not in external files.
    """
    graph = model.graph
    tensors = {item.name: item for item in graph.initializer}
    rest = []
    for node in graph.node:
        inputs = [tensors[name] for name in node.input if name in tensors]
        if len(inputs) == len(node.input) and _is_storage(node, inputs):
            values = [numpy_helper.to_array(item).astype(np.float32) for item in inputs]
            product = np.asarray(values[0] if len(values) == 1 else values[0] * values[1])
            tensors[node.output[0]] = numpy_helper.from_array(product, node.output[0])
        else:
            rest.append(node)
    used = {name for node in rest for name in node.input}
    used |= {value.name for value in graph.output}
    _replace(graph.node, rest)
    _replace(graph.initializer, [tensor for name, tensor in tensors.items() if name in used])


def _is_storage(node: NodeProto, inputs: list[TensorProto]) -> bool:
    if node.op_type == "Cast":
        return any(item.name == "to" and item.i == TensorProto.FLOAT for item in node.attribute)
    return node.op_type == "Mul" and all(item.data_type == TensorProto.FLOAT for item in inputs)


def _compact(initializer: TensorProto) -> tuple[list[NodeProto], list[TensorProto]] | None:
    if initializer.data_type != TensorProto.FLOAT:
        return None
    values = numpy_helper.to_array(initializer)
    if values.size < MIN_STORED_SIZE:
        return None
    name = initializer.name
    for axis in (0, 1) if values.ndim == 2 else ():
        grid = _int8_grid(values, axis)
        if grid is not None:
            steps, scale = grid
            return (
                [
                    _cast(f"{name}.int8", f"{name}.steps"),
                    _cast(f"{name}.scale_fp16", f"{name}.scale"),
                    helper.make_node(
                        "Mul", [f"{name}.steps", f"{name}.scale"], [name], name=f"{name}/dequantise"
                    ),
                ],
                [
                    numpy_helper.from_array(steps, f"{name}.int8"),
                    numpy_helper.from_array(scale, f"{name}.scale_fp16"),
                ],
            )
    with np.errstate(over="ignore"):  # to infinity, which is not equal
        half = values.astype(np.float16)
    if np.array_equal(half.astype(np.float32), values):
        return [_cast(f"{name}.fp16", name)], [numpy_helper.from_array(half, f"{name}.fp16")]
    return None


def _replace(field: Any, items: Iterable[Any]) -> None:
    """Exchange the items of a repeated field."""
    items = list(items)
    del field[:]
    field.extend(items)


def _cast(source: str, target: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=TensorProto.FLOAT)


def _int8_grid(
    values: FloatArray, out_axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]] | None:
    """Steps and scale with ``steps * scale == values`` exactly, or None."""
    largest = np.abs(values).max(axis=1 - out_axis, keepdims=True)
    with np.errstate(over="ignore"):
        scale = (largest / np.float32(INT8_MAX)).astype(np.float16)
    scale[scale == 0] = 1
    wide = scale.astype(np.float32)
    if not np.isfinite(wide).all():
        return None
    steps = np.rint(values / wide)
    if np.abs(steps).max() > INT8_MAX or not np.array_equal(steps * wide, values):
        return None
    return steps.astype(np.int8), scale
