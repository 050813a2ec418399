"""Where a graph keeps each tensor of the model: readable names and a map in the metadata.

The map makes a bundle a checkpoint: :func:`samus_edge.weights.bundle_file.load_bundle_model` reads
the model back from the shipped graphs, bit for bit.
"""

import json
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper

from samus_edge.errors import ExportMismatchError

TENSOR_MAP_KEY = "samus_edge.tensors"
"""Key of the model's metadata: JSON, model tensor to [initialiser, form]."""

IOU_TOKEN, MASK_TOKENS = "mask_decoder.iou_token.weight", "mask_decoder.mask_tokens.weight"
OUTPUT_TOKENS = "mask_decoder.output_tokens"
DECODER_HEADS = 8
"""Of the mask decoder's attentions: a power of two, so that dividing by it loses nothing."""

FloatArray = npt.NDArray[np.float32]


def map_tensors(model: ModelProto, tensors: Mapping[str, FloatArray]) -> None:
    """Find the model's tensors among a graph's initialisers by value, name and record them.

    The exporter transposes matrices, expands position tables, joins tokens and divides a bias by the
    number of heads; each of these forms is recognised. Tensors of zeros need not be in the graph.

    Args:
        model: the graph; initialisers are renamed and metadata is added, in place.
        tensors: the tensors of the modules that the graph computes, by their name in the whole
            model.

    Raises:
        ExportMismatchError: naming every tensor that is not in the graph.
    """
    found = {
        _key(values): initializer
        for initializer in model.graph.initializer
        if initializer.data_type == TensorProto.FLOAT
        and (values := np.asarray(numpy_helper.to_array(initializer))).size > 1
    }
    places: dict[str, tuple[str, str]] = {}
    names: dict[str, str] = {}
    for tensor_name, tensor in tensors.items():
        for form, values in _forms(tensor_name, tensor, tensors):
            initializer = found.get(_key(values))
            if initializer is None:
                continue
            readable = OUTPUT_TOKENS if form == "tokens" else tensor_name
            suffix = "" if form in ("plain", "tokens") else f".{form}"
            names.setdefault(initializer.name, readable + suffix)
            places[tensor_name] = (initializer.name, form)
            break
        else:
            if not tensor.any():
                places[tensor_name] = ("", "zeros")
    missing = sorted(set(tensors) - set(places))
    if missing:
        raise ExportMismatchError(
            f"The exported graph does not hold {len(missing)} tensors of the model: "
            f"{', '.join(missing)}. The exporter of this PyTorch version computes with them "
            "beforehand; use the version that the documentation names."
        )
    _rename(model, names)
    document = {
        name: [names[place] if place else "", form] for name, (place, form) in places.items()
    }
    model.metadata_props.add(key=TENSOR_MAP_KEY, value=json.dumps(document, separators=(",", ":")))


def restore(values: FloatArray, form: str, tensor_name: str, shape: tuple[int, ...]) -> FloatArray:
    """Undo a form: the model tensor, of ``shape``, from an initialiser's values."""
    if form == "zeros":
        values = np.zeros(shape, np.float32)
    elif form == "transposed":
        values = values.T
    elif form == "spread":  # (in, 2, 2, out)
        values = values.reshape(shape[0], *shape[2:], shape[1]).transpose(0, 3, 1, 2)
    elif form == "repeated":
        values = values[: shape[0]]
    elif form == "eighth":
        values = values * np.float32(DECODER_HEADS)
    elif form == "rows":  # (heads, w * w, w): the rows of y2 = 0
        values = values.reshape(shape[0], shape[1], shape[1], shape[1])[:, :, 0]
    elif form == "pairs":  # (heads, w * w, w * w): y2 = 0 and x2 = 0
        values = values.reshape(shape[0], *(4 * shape[1:2]))[:, :, 0, :, 0]
    elif form == "tokens":
        tokens = values.reshape(-1, shape[-1])
        values = tokens[:1] if tensor_name == IOU_TOKEN else tokens[1:]
    return np.ascontiguousarray(values.reshape(shape))


def _forms(
    name: str, tensor: FloatArray, tensors: Mapping[str, FloatArray]
) -> Iterator[tuple[str, FloatArray]]:
    """The forms in which a graph may hold a tensor; shapes may gain or lose axes of one."""
    yield "plain", tensor
    if tensor.ndim == 2:
        yield "transposed", tensor.T
    if tensor.ndim == 4 and name.startswith("mask_decoder.output_upscaling."):
        yield "spread", tensor.transpose(0, 2, 3, 1)
    if tensor.ndim == 1 and name.startswith("mask_decoder.output_upscaling."):
        yield "repeated", np.tile(tensor, 4)
    if name.endswith("cross_attn_image_to_token.out_proj.bias"):
        yield "eighth", tensor / np.float32(DECODER_HEADS)
    if name.endswith("bias_table"):
        side = tensor.shape[1]
        offsets = np.abs(np.arange(side)[:, None] - np.arange(side)[None, :]).ravel()
        rows = tensor[:, offsets]
        yield "rows", rows
        yield "pairs", rows[:, :, offsets]
    if name in (IOU_TOKEN, MASK_TOKENS):
        yield "tokens", np.concatenate((tensors[IOU_TOKEN], tensors[MASK_TOKENS]))


def _key(values: FloatArray) -> bytes:
    return np.ascontiguousarray(values, dtype=np.float32).tobytes()


def _rename(model: ModelProto, names: Mapping[str, str]) -> None:
    taken = [new for old, new in names.items() if old != new]
    assert len(set(taken)) == len(taken)
    for initializer in model.graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]
    for value in model.graph.value_info:
        value.name = names.get(value.name, value.name)
