"""A graph of a bundle in a form that TensorRT's ONNX parser takes."""

from onnx import ModelProto

from samus_edge.calibration.weight_storage import expand_weights
from samus_edge.export.graph_cleanup import complete_resize_sizes, remove_unused

__all__ = ["prepare_for_tensorrt"]


def prepare_for_tensorrt(model: ModelProto) -> None:
    """Change what TensorRT refuses, in place; the graph computes the same numbers.

    - Weights that are stored as half precision or int8 become float32: TensorRT allows an int8
      constant only before a DequantizeLinear.
    - A Resize to a constant size of its spatial axes gets all four sizes, batch and channels read
      from the tensor: the parser fills the axes that are not named with the tensor's static sizes,
      and those are -1 where the batch is dynamic.

    Args:
        model: a graph as `samus-edge export` writes it, weights included.

    Source: onnx-tensorrt, `onnxOpImporters.cpp`, Resize; the second was seen with the parser and the
        builder of TensorRT-RTX 1.7.
    """
    expand_weights(model)
    complete_resize_sizes(model)
    remove_unused(model)
