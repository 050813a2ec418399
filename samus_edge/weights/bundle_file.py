"""The model inside a bundle: exported graphs back to torch."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, numpy_helper

from samus_edge.errors import WeightsError
from samus_edge.export.tensor_map import TENSOR_MAP_KEY, restore
from samus_edge.modeling.builders import samus_hf_tiny, samus_hf_vit
from samus_edge.modeling.folding import fold_constants
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_contract import IMAGE_ENCODER, MASK_DECODER

FloatArray = npt.NDArray[np.float32]

_BLOCK_PATTERN = r"image_encoder\.blocks\.(\d+)\.(cross_branch\.)?"

FIRST_CNN_KERNEL = "image_encoder.cnn_branch.steps.0.conv.weight"
"""Of `tiny`."""
HF_KERNEL = "image_encoder.cnn_branch.hf_conv.weight"
"""Of `vit_b`."""
GATE_PREFIX = "image_encoder.cnn_branch.gate."
PATCH_KERNEL = "image_encoder.patch_embed.weight"
"""Of `vit_b`, as is the next one; their shapes tell the width and the heads."""
FIRST_POSITIONS = "image_encoder.blocks.0.attn.rel_pos_h"


def load_bundle_model(folder: Path | None = None) -> SamusHF:
    """Build the torch model that a bundle's graphs compute, from the graphs themselves.

    Its constants are folded and its weights are the rounded ones, so it gives the bundle's outputs.

    Args:
        folder: the bundle; None for the default one.

    Returns:
        The model in evaluation mode.

    Raises:
        BundleError: if the bundle is damaged.
        WeightsError: if its graphs do not say where the model's tensors are, or lack some.
    """
    bundle = Bundle.open(folder)
    stored: dict[str, tuple[FloatArray, str]] = {}
    for name in (IMAGE_ENCODER, MASK_DECODER):
        if bundle.graph_record(name).external_data:
            raise WeightsError(
                f"{bundle.path} keeps tensors of {name} outside the graph's file. Export it with "
                "samus-edge export, which keeps them inside."
            )
        graph = onnx.load_from_string(bundle.read_graph(name))
        initializers = _float_initializers(graph)
        for tensor_name, (initializer, form) in _tensor_map(graph, bundle.path).items():
            if form == "zeros":
                stored[tensor_name] = (np.zeros(0, np.float32), form)
            elif initializer in initializers:
                stored[tensor_name] = (initializers[initializer], form)
    missing = [name for name in (PATCH_KERNEL, FIRST_POSITIONS) if name not in stored]
    if bundle.manifest.arch == "vit_b" and missing:
        raise _lacking(bundle.path, missing)
    model = _vit(stored) if bundle.manifest.arch == "vit_b" else _tiny(stored)
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


def _tiny(stored: Mapping[str, tuple[FloatArray, str]]) -> SamusHF:
    """A `tiny` with the switches that the stored tensors show."""
    kernel = stored.get(FIRST_CNN_KERNEL)
    hf = kernel is None or kernel[0].shape[1] == 2  # grey and high-frequency image
    return samus_hf_tiny(hf=hf, gate=_has_gate(stored))


def _vit(stored: Mapping[str, tuple[FloatArray, str]]) -> SamusHF:
    """A `vit_b`, of whatever size, with the size and the switches that the stored tensors show."""
    dim = stored[PATCH_KERNEL][0].shape[0]
    head_dim = stored[FIRST_POSITIONS][0].shape[1]
    blocks = [match for name in stored if (match := re.match(_BLOCK_PATTERN, name))]
    return samus_hf_vit(
        embed_dim=dim,
        depth=len({match[1] for match in blocks}),
        num_heads=dim // head_dim,
        global_blocks=sorted({int(match[1]) for match in blocks if match[2]}),
        hf=HF_KERNEL in stored,
        gate=_has_gate(stored),
    )


def _has_gate(stored: Mapping[str, tuple[FloatArray, str]]) -> bool:
    return any(name.startswith(GATE_PREFIX) for name in stored)


def _lacking(folder: Path, names: Sequence[str]) -> WeightsError:
    return WeightsError(
        f"{folder} lacks {len(names)} tensors of the model: {', '.join(names)}. "
        "Export it again with this version."
    )


def _tensor_map(graph: ModelProto, folder: Path) -> dict[str, tuple[str, str]]:
    for entry in graph.metadata_props:
        if entry.key == TENSOR_MAP_KEY:
            return {name: (place[0], place[1]) for name, place in json.loads(entry.value).items()}
    raise WeightsError(
        f"{folder} does not say where its graphs keep the model's tensors. "
        "Export it with samus-edge export."
    )


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
