"""The model inside a bundle: where its graphs keep each tensor, and the way back to torch."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from samus_edge.errors import ExportMismatchError, WeightsError
from samus_edge.modeling.model_parts import fold_constants, samus_hf_tiny, samus_hf_vit
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, LESION_PROPOSER, MASK_DECODER
from samus_edge.weights.model_file import switches_of

TENSOR_MAP_KEY = "samus_edge.tensors"
"""Key of the model's metadata: JSON, model tensor to [initialiser, form]."""

IOU_TOKEN, MASK_TOKENS = "mask_decoder.iou_token.weight", "mask_decoder.mask_tokens.weight"
OUTPUT_TOKENS = "mask_decoder.output_tokens"
DECODER_HEADS = 8
"""Of the mask decoder's attentions: a power of two, so that dividing by it loses nothing."""

FloatArray = npt.NDArray[np.float32]


def map_tensors(model: ModelProto, tensors: Mapping[str, FloatArray]) -> None:
    """Find the model's tensors among a graph's initialisers by value, name and record them.

    The exporter transposes matrices, expands position tables, joins tokens and divides a bias by
    the number of heads; each of these forms is recognised. Tensors of zeros need not be in the
    graph.

    Args:
        model: The graph; initialisers are renamed and metadata is added, in place.
        tensors: Tensors of the modules that the graph computes, by their name in the whole model.

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


def put_tensors(
    graph: ModelProto, tensors: Mapping[str, FloatArray], constants: Mapping[str, FloatArray]
) -> bool:
    """Exchange the model's tensors in a graph that :func:`map_tensors` has named, in place.

    Args:
        graph: The graph, its weights in float32.
        tensors: Tensors of the modules that it computes, by their name in the whole model.
        constants: What the exporter has computed from them beforehand, by initialiser.

    Returns:
        Whether the graph is one of such tensors, name by name and shape by shape. It is not if it
        keeps two that were equal as one, and they are not now. It may hold some of them then.
    """
    places = _tensor_map(graph)
    if places is None or places.keys() != tensors.keys():
        return False
    stored = {item.name: item for item in graph.graph.initializer}
    found = dict(constants)
    for name, tensor in tensors.items():
        place, form = places[name]
        if form == "zeros":
            if tensor.any():
                return False
            continue
        forms = dict(_forms(name, tensor, tensors))
        if form not in forms:
            return False
        if place in found and not np.array_equal(found[place], forms[form]):
            return False
        found[place] = forms[form]
    for place, values in found.items():
        if place not in stored or math.prod(stored[place].dims) != values.size:
            return False
        values = np.ascontiguousarray(values, np.float32).reshape(stored[place].dims)
        stored[place].CopyFrom(numpy_helper.from_array(values, place))
    return True


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


_BLOCK_PATTERN = r"image_encoder\.blocks\.(\d+)\.(cross_branch\.)?"

# Of `vit_b`; their shapes tell the width and the heads.
PATCH_KERNEL = "image_encoder.patch_embed.weight"
FIRST_POSITIONS = "image_encoder.blocks.0.attn.rel_pos_h"


def load_bundle_model(source: Path | Bundle | None = None) -> SamusHF:
    """Build the torch model that a bundle's graphs compute, from the graphs themselves.

    Its constants are folded and its weights are the rounded ones, so it gives the bundle's outputs.

    Args:
        source: The bundle, opened or not; None for the default one.

    Returns:
        The model in evaluation mode.

    Raises:
        BundleError: if the bundle is damaged.
        WeightsError: if its graphs do not say where the model's tensors are, or lack some.
    """
    bundle = Bundle.open(source)
    stored: dict[str, tuple[FloatArray, str]] = {}
    for name in (IMAGE_ENCODER, MASK_DECODER, LESION_PROPOSER):
        if name not in bundle.manifest.graphs:
            continue
        if bundle.graph_record(name).external_data:
            raise WeightsError(
                f"{bundle.path} keeps tensors of {name} outside the graph's file. Export it with "
                "samus-edge export, which keeps them inside."
            )
        graph = onnx.load_from_string(bundle.read_graph(name))
        initializers = _float_initializers(graph)
        places = _tensor_map(graph)
        if places is None:
            raise WeightsError(
                f"{bundle.path} does not say where its graphs keep the model's tensors. "
                "Export it with samus-edge export."
            )
        for tensor_name, (initializer, form) in places.items():
            if form == "zeros":
                stored[tensor_name] = (np.zeros(0, np.float32), form)
            elif initializer in initializers:
                stored[tensor_name] = (initializers[initializer], form)
    missing = [name for name in (PATCH_KERNEL, FIRST_POSITIONS) if name not in stored]
    if bundle.manifest.arch == "vit_b" and missing:
        raise _lacking(bundle.path, missing)
    switches = switches_of({name: values for name, (values, _) in stored.items()})
    is_vit = bundle.manifest.arch == "vit_b"
    model = _vit(stored, switches) if is_vit else samus_hf_tiny(**switches)
    fold_constants(model)
    own = model.state_dict()
    missing = sorted(set(own) - set(stored))
    if missing:
        raise _lacking(bundle.path, missing)
    restored = {
        name: torch.tensor(restore(*stored[name], name, tuple(tensor.shape)))
        for name, tensor in own.items()
    }
    model.load_state_dict(restored)
    return model.eval().requires_grad_(False)


def _vit(stored: Mapping[str, tuple[FloatArray, str]], switches: dict[str, bool]) -> SamusHF:
    """A `vit_b`, of whatever size, with the size that the stored tensors show."""
    dim = stored[PATCH_KERNEL][0].shape[0]
    head_dim = stored[FIRST_POSITIONS][0].shape[1]
    blocks = [match for name in stored if (match := re.match(_BLOCK_PATTERN, name))]
    return samus_hf_vit(
        embed_dim=dim,
        depth=len({match[1] for match in blocks}),
        num_heads=dim // head_dim,
        global_blocks=sorted({int(match[1]) for match in blocks if match[2]}),
        **switches,
    )


def _lacking(folder: Path, names: Sequence[str]) -> WeightsError:
    return WeightsError(
        f"{folder} lacks {len(names)} tensors of the model: {', '.join(names)}. "
        "Export it again with this version."
    )


def _tensor_map(graph: ModelProto) -> dict[str, tuple[str, str]] | None:
    """Initialiser and form of each tensor; None if the graph does not say them."""
    for entry in graph.metadata_props:
        if entry.key == TENSOR_MAP_KEY:
            return {name: (place[0], place[1]) for name, place in json.loads(entry.value).items()}
    return None


def _float_initializers(graph: ModelProto) -> dict[str, FloatArray]:
    """Initialisers by the name under which the graph computes with them, in float32."""
    stored = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    values: dict[str, FloatArray] = {}
    for name, array in stored.items():
        if name.endswith(".fp16") and not name.endswith(".scale_fp16"):
            values[name.removesuffix(".fp16")] = array.astype(np.float32)
        elif name.endswith(".int8"):
            base = name.removesuffix(".int8")
            scale = stored[f"{base}.scale_fp16"].astype(np.float32)
            values[base] = array.astype(np.float32) * scale
        elif array.dtype == np.float32:
            values[name] = array
    return values
