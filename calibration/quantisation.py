"""Static quantisation, written into a graph as pairs of QuantizeLinear and DequantizeLinear."""

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
        name: name of the precision in a bundle.
        symmetric: whether activations are int8 around zero; else uint8 with a zero point.
        operators: operator types that are quantised where their weights are constants.
        excluded: prefixes of node names that are never quantised.
        half_precision: whether everything else computes in half precision.
    """

    name: str
    symmetric: bool
    operators: tuple[str, ...]
    excluded: tuple[str, ...] = ("preprocessing/",)
    half_precision: bool = False


TENSORRT_INT8 = QuantisationRecipe(
    name="int8",
    symmetric=True,
    operators=("Conv", "Gemm", "MatMul"),
    half_precision=True,
)
"""For TensorRT, which takes symmetric grids alone: scales per channel for weights, per tensor for
activations, no zero points, float biases. Depthwise convolutions stay in half precision, as in
every recipe: they are bound by memory, and quantised alone they cost more Dice than all else
together."""

CPU_INT8 = QuantisationRecipe(
    name="int8-cpu",
    symmetric=False,
    operators=("Gemm", "MatMul"),
)
"""For CPUs with 8-bit dot products (AVX-512 VNNI, AVX-VNNI, ARM dotprod) on ONNX Runtime: uint8
activations by int8 weights is what these instructions multiply. Convolutions stay float32: ONNX
Runtime's blocked float kernels are as fast for these sizes, and 8-bit ones force layout changes."""

RECIPES = {recipe.name: recipe for recipe in (TENSORRT_INT8, CPU_INT8)}


INT8_MAX, UINT8_MAX = 127, 255

Range = tuple[float, float]
FloatArray = npt.NDArray[np.float32]


def quantisable_nodes(model: ModelProto, recipe: QuantisationRecipe) -> dict[str, str]:
    """The nodes of a float32 graph that a recipe quantises, in the graph's order.

    Products of two activations are left out, and so are depthwise convolutions: 8 bits hurt
    attention's inputs and filters of few weights most, and gain least there.

    Args:
        model: a graph whose weights are float32 initialisers.
        recipe: the recipe.

    Returns:
        By the node's name, the activation that it multiplies with weights.
    """
    constants = {item.name for item in model.graph.initializer}
    weights = {item.name for item in model.graph.initializer if len(item.dims) >= 2}
    return {
        node.name: node.input[0]
        for node in model.graph.node
        if node.op_type in recipe.operators
        and node.input[1] in weights
        and node.input[0] not in constants
        and not node.name.startswith(recipe.excluded)
        and not any(item.name == "group" and item.i > 1 for item in node.attribute)
    }


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
        recipe: the recipe.

    Raises:
        BadArgumentError: naming nodes that cannot be quantised, or tensors without a range.
    """
    quantisable = quantisable_nodes(model, recipe)
    unknown = sorted(set(nodes) - quantisable.keys())
    if unknown:
        raise BadArgumentError(
            f"cannot quantise {', '.join(unknown)} by the recipe {recipe.name!r}."
        )
    chosen = set(nodes)
    activations = {quantisable[name] for name in chosen}
    missing = sorted(activations - ranges.keys())
    if missing:
        raise BadArgumentError(f"ranges must have {', '.join(missing)}.")
    quantiser = _Quantiser(model, ranges, recipe)
    for value in model.graph.input:
        if value.name in activations:
            quantiser.put_on_grid(value.name)
    for node in quantiser.model.graph.node:
        if node.name in chosen:
            quantiser.quantise(node)
        quantiser.nodes.append(node)
        for name in node.output:
            if name in activations:
                quantiser.put_on_grid(name)
    return quantiser.finished()


class _Quantiser:
    """Builds one quantised copy, node by node."""

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
        self.quantised_weights: dict[tuple[str, int], str] = {}

    def put_on_grid(self, name: str) -> None:
        """Quantise and dequantise an activation, once for all its readers."""
        low, high = self.ranges[name]
        scale, zero_point = activation_grid(low, high, symmetric=self.recipe.symmetric)
        self._constant(f"{name}/scale", scale)
        self._constant(f"{name}/zero_point", zero_point)
        self._node("QuantizeLinear", name, name, f"{name}/quantised")
        self._node("DequantizeLinear", name, f"{name}/quantised", f"{name}/dequantised")

    def quantise(self, node: NodeProto) -> None:
        """Let a node read its activation and its weights from their grids."""
        node.input[0] = f"{node.input[0]}/dequantised"
        source = node.input[1]
        axis = _output_axis(node, len(self.weights[source].dims))
        if (source, axis) not in self.quantised_weights:
            # other nodes may read the same weights transposed, with channels on another axis
            is_second = any(each == source for each, _ in self.quantised_weights)
            name = f"{source}/axis{axis}" if is_second else source
            steps, scale = weight_grid(numpy_helper.to_array(self.weights[source]), axis)
            self._constant(f"{name}/int8", steps)
            self._constant(f"{name}/scale", scale)
            self._constant(f"{name}/zero_point", np.zeros(scale.shape, np.int8))
            self._node("DequantizeLinear", name, f"{name}/int8", f"{name}/dequantised", axis=axis)
            self.quantised_weights[source, axis] = f"{name}/dequantised"
        node.input[1] = self.quantised_weights[source, axis]

    def finished(self) -> ModelProto:
        """The copy with the new nodes, without weights that are no longer read."""
        graph, nodes = self.model.graph, list(self.nodes)
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [item for name, item in self.weights.items() if name in used]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self.constants.values()])
        del graph.value_info[:]
        return self.model

    def _node(
        self, operator: str, name: str, source: str, target: str, axis: int | None = None
    ) -> None:
        inputs = [source, f"{name}/scale", f"{name}/zero_point"]
        node = helper.make_node(operator, inputs, [target], f"{name}/{operator}", axis=axis)
        self.nodes.append(node)

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

    Scales are half-precision numbers, so that a graph that computes in it has the same. A channel
    of zeros gets the scale 1, as engines refuse a scale of 0.
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


def _output_axis(node: NodeProto, rank: int) -> int:
    """Which axis of a node's weights counts its output channels."""
    if node.op_type == "Conv":
        return 0
    is_transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return rank - 2 if is_transposed else rank - 1
