"""Insertion of Q/DQ pairs: static quantisation written into the graph."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from samus_edge.errors import BadArgumentError


@dataclass(frozen=True)
class QuantisationRecipe:
    """Which operators compute on 8 bits, and on which grids.

    Weights are int8, symmetric, with one scale per output channel; biases stay float.

    Attributes:
        name: of the precision in a bundle.
        symmetric: whether activations are int8 around zero; else uint8 with a zero point.
        operators: operator types whose weights are constants and that are quantised.
        output_operators: of these, whose outputs are put on a grid as well.
        excluded: prefixes of node names that are never quantised.
        half_precision: whether everything else computes in half precision.
    """

    name: str
    symmetric: bool
    operators: tuple[str, ...]
    output_operators: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ("preprocessing/",)
    half_precision: bool = False


TENSORRT_INT8 = QuantisationRecipe(
    name="int8",
    symmetric=True,
    operators=("Conv", "Gemm", "MatMul"),
    half_precision=True,
)
"""For TensorRT, which takes symmetric grids alone: scales per channel for weights, per tensor for
activations, no zero points, float biases. Depthwise convolutions stay in half precision, as in every
recipe: they are bound by memory, and quantised alone they cost more Dice than all else together."""

CPU_INT8 = QuantisationRecipe(
    name="int8-cpu",
    symmetric=False,
    operators=("Gemm", "MatMul"),
)
"""For CPUs with 8-bit dot products (AVX-512 VNNI, AVX-VNNI, ARM dotprod) on ONNX Runtime: uint8
activations by int8 weights is what these instructions multiply. Convolutions stay float32: ONNX
Runtime's blocked float kernels are as fast for these sizes, and 8-bit ones force layout changes."""

RECIPES = {recipe.name: recipe for recipe in (TENSORRT_INT8, CPU_INT8)}


INT8_MAX = 127
UINT8_MAX = 255

Range = tuple[float, float]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """A node that can be quantised.

    Attributes:
        node: its name.
        activation: the tensor that it multiplies with weights.
        output: the tensor that it gives, where the recipe puts it on a grid; else None.
    """

    node: str
    activation: str
    output: str | None


def quantisable_nodes(model: ModelProto, recipe: QuantisationRecipe) -> list[Candidate]:
    """The nodes of a float32 graph that a recipe quantises, in the graph's order.

    Products of two activations are none of them, nor are depthwise convolutions: 8 bits hurt
    attention's inputs and filters of few weights most, and gain least there.

    Args:
        model: a graph whose weights are float32 initialisers.
        recipe: for which hardware.
    """
    constants = {item.name for item in model.graph.initializer}
    weights = {item.name for item in model.graph.initializer if len(item.dims) >= 2}
    return [
        Candidate(
            node.name,
            node.input[0],
            node.output[0] if node.op_type in recipe.output_operators else None,
        )
        for node in model.graph.node
        if node.op_type in recipe.operators
        and node.input[1] in weights
        and node.input[0] not in constants
        and not node.name.startswith(recipe.excluded)
        and not _is_grouped(node)
    ]


def quantise(
    model: ModelProto,
    nodes: Collection[str],
    ranges: Mapping[str, Range],
    recipe: QuantisationRecipe,
) -> ModelProto:
    """A copy of a graph in which some nodes compute on 8-bit values.

    Args:
        model: a graph whose weights are float32 initialisers.
        nodes: names of nodes that `quantisable_nodes` gives for the recipe.
        ranges: (low, high) of every activation of these nodes.
        recipe: for which hardware.

    Raises:
        ValueError: naming nodes that cannot be quantised, or tensors without a range.
    """
    chosen = {each.node: each for each in quantisable_nodes(model, recipe) if each.node in nodes}
    unknown = sorted(set(nodes) - set(chosen))
    if unknown:
        raise BadArgumentError(
            f"cannot quantise {', '.join(unknown)} by the recipe {recipe.name!r}."
        )
    grids = {each.activation for each in chosen.values()}
    grids |= {each.output for each in chosen.values() if each.output is not None}
    missing = sorted(grids - set(ranges))
    if missing:
        raise BadArgumentError(f"ranges must have {', '.join(missing)}.")
    return _Quantiser(model, ranges, recipe).quantise(chosen)


class _Quantiser:
    """Builds one quantised copy."""

    def __init__(
        self, model: ModelProto, ranges: Mapping[str, Range], recipe: QuantisationRecipe
    ) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.ranges = ranges
        self.recipe = recipe
        self.weights = {item.name: item for item in self.model.graph.initializer}
        self.constants: dict[str, TensorProto] = {}
        self.nodes: list[NodeProto] = []
        self.on_grid: set[str] = set()
        self.quantised_weights: dict[tuple[str, int], str] = {}

    def quantise(self, chosen: Mapping[str, Candidate]) -> ModelProto:
        """Rewrite the copy's nodes."""
        graph = self.model.graph
        outputs = {each.output for each in chosen.values() if each.output is not None}
        for value in graph.input:
            if value.name in {each.activation for each in chosen.values()}:
                self._put_on_grid(value.name)
        needed = {each.activation for each in chosen.values()} | outputs
        for node in graph.node:
            if node.name in chosen:
                node.input[0] = f"{node.input[0]}/dequantised"
                node.input[1] = self._dequantised_weight(node)
            else:
                for index, name in enumerate(node.input):
                    if name in outputs and name in self.on_grid:
                        node.input[index] = f"{name}/dequantised"
            self.nodes.append(node)
            for name in node.output:
                if name in needed and name not in self.on_grid:
                    self._put_on_grid(name)
        nodes = list(self.nodes)
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [item for name, item in self.weights.items() if name in used]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self.constants.values()])
        del graph.value_info[:]
        return self.model

    def _put_on_grid(self, name: str) -> None:
        """Quantise and dequantise an activation, once for all its readers."""
        low, high = self.ranges[name]
        scale, zero_point = activation_grid(low, high, symmetric=self.recipe.symmetric)
        self._constant(f"{name}/scale", scale)
        self._constant(f"{name}/zero_point", zero_point)
        grid = [f"{name}/scale", f"{name}/zero_point"]
        self.nodes += _pair(name, grid)
        self.on_grid.add(name)

    def _dequantised_weight(self, node: NodeProto) -> str:
        source = node.input[1]
        rank = len(self.weights[source].dims)
        axis = _output_axis(node, rank)
        if (source, axis) not in self.quantised_weights:
            # as other nodes may read the same weights transposed, with their channels on another axis
            is_second = any(each == source for each, _ in self.quantised_weights)
            name = f"{source}/axis{axis}" if is_second else source
            steps, scale = weight_grid(numpy_helper.to_array(self.weights[source]), axis)
            self._constant(f"{name}/int8", steps)
            self._constant(f"{name}/scale", scale)
            self._constant(f"{name}/zero_point", np.zeros(scale.shape, np.int8))
            self.nodes.append(
                helper.make_node(
                    "DequantizeLinear",
                    [f"{name}/int8", f"{name}/scale", f"{name}/zero_point"],
                    [f"{name}/dequantised"],
                    name=f"{name}/DequantizeLinear",
                    axis=axis,
                )
            )
            self.quantised_weights[source, axis] = f"{name}/dequantised"
        return self.quantised_weights[source, axis]

    def _constant(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self.constants[name] = numpy_helper.from_array(values, name)


def activation_grid(
    low: float, high: float, *, symmetric: bool
) -> tuple[FloatArray, npt.NDArray[np.generic]]:
    """Scale and zero point of the grid that covers [low, high]; both have the shape ().

    Args:
        low: at most 0.
        high: at least 0.
        symmetric: int8 with zero point 0, steps -127..127; else uint8, steps 0..255.
    """
    span = max(-low, high) / INT8_MAX if symmetric else (high - low) / UINT8_MAX
    scale = _half_precision(np.asarray(span if span > 0 else 1.0))
    if symmetric:
        return scale, np.asarray(0, np.int8)
    zero_point = np.clip(np.rint(-low / scale), 0, UINT8_MAX)
    return scale, np.asarray(zero_point, np.uint8)


def weight_grid(values: FloatArray, axis: int) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Steps -127..127 of the shape of ``values``, and one scale per index of ``axis``.

    Scales are half-precision numbers, so that a graph that computes in it has the same. A channel of
    zeros gets the scale 1, as engines refuse a scale of 0.
    """
    others = tuple(index for index in range(values.ndim) if index != axis)
    largest = np.abs(values).max(axis=others)
    scale = _half_precision(largest / INT8_MAX)
    scale[largest == 0] = 1
    shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    steps = np.clip(np.rint(values / scale.reshape(shape)), -INT8_MAX, INT8_MAX)
    return steps.astype(np.int8), scale


def _half_precision(scale: npt.NDArray[np.floating]) -> FloatArray:
    """The nearest half-precision numbers that are neither zero nor infinite, as float32."""
    half = np.finfo(np.float16)
    clipped = np.clip(scale, float(half.smallest_subnormal), float(half.max))
    rounded: FloatArray = clipped.astype(np.float16).astype(np.float32)
    return rounded


def _pair(name: str, grid: list[str]) -> list[NodeProto]:
    return [
        helper.make_node(
            "QuantizeLinear", [name, *grid], [f"{name}/quantised"], name=f"{name}/QuantizeLinear"
        ),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}/quantised", *grid],
            [f"{name}/dequantised"],
            name=f"{name}/DequantizeLinear",
        ),
    ]


def _is_grouped(node: NodeProto) -> bool:
    return any(item.name == "group" and item.i > 1 for item in node.attribute)


def _output_axis(node: NodeProto, rank: int) -> int:
    """Which axis of a node's weights counts its output channels."""
    if node.op_type == "Conv":
        return 0
    is_transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return rank - 2 if is_transposed else rank - 1
