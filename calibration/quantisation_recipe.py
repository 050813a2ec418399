"""How a graph is quantised for one kind of hardware: the best way differs."""

from dataclasses import dataclass


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
