"""The model inside a bundle: exported graphs back to torch."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, numpy_helper

from samus_edge.errors import WeightsError
from samus_edge.export.tensor_map import TENSOR_MAP_KEY, restore
from samus_edge.modeling.builders import samus_hf_tiny
from samus_edge.modeling.conv_norm import fold_conv_norms
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.bundle import Bundle

FloatArray = npt.NDArray[np.float32]

FIRST_CNN_KERNEL = "image_encoder.cnn_branch.steps.0.conv.weight"
GATE_PREFIX = "image_encoder.cnn_branch.gate."


def load_bundle_model(folder: Path | None = None) -> SamusHF:
    """Build the torch model that a bundle's graphs compute, from the graphs themselves.

    Its batch normalisation is folded and its weights are the rounded ones, so it gives the bundle's
    outputs.

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
    for name in bundle.manifest.graphs:
        graph = onnx.load_from_string(bundle.read_graph(name))
        initializers = _float_initializers(graph)
        for tensor_name, (initializer, form) in _tensor_map(graph, bundle.folder).items():
            if initializer in initializers:
                stored[tensor_name] = (initializers[initializer], form)
    model = _switched_model(stored)
    own = model.state_dict()
    missing = sorted(set(own) - set(stored))
    if missing:
        raise WeightsError(
            f"{bundle.folder} lacks {len(missing)} tensors of the model: {', '.join(missing)}. "
            "Export it again with this version."
        )
    restored = {
        name: torch.tensor(restore(*stored[name], name, tuple(tensor.shape)))
        for name, tensor in own.items()
    }
    model.load_state_dict(restored)
    return model.eval().requires_grad_(False)


def _switched_model(stored: Mapping[str, tuple[FloatArray, str]]) -> SamusHF:
    """A folded model with the switches that the stored tensors show."""
    kernel = stored.get(FIRST_CNN_KERNEL)
    hf = kernel is None or kernel[0].shape[1] == 2  # grey and high-frequency image
    gate = any(name.startswith(GATE_PREFIX) for name in stored)
    model = samus_hf_tiny(hf=hf, gate=gate)
    fold_conv_norms(model)
    return model


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
