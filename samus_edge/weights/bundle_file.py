"""The model inside a bundle: exported graphs back to torch."""

import json
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
    model = samus_hf_tiny()
    fold_conv_norms(model)
    own = model.state_dict()
    restored: dict[str, torch.Tensor] = {}
    for name in bundle.manifest.graphs:
        graph = onnx.load_from_string(bundle.read_graph(name))
        initializers = _float_initializers(graph)
        for tensor_name, (initializer, form) in _tensor_map(graph, bundle.folder).items():
            if tensor_name in own and initializer in initializers:
                shape = tuple(own[tensor_name].shape)
                values = restore(initializers[initializer], form, tensor_name, shape)
                restored[tensor_name] = torch.tensor(values)
    missing = sorted(set(own) - set(restored))
    if missing:
        raise WeightsError(
            f"{bundle.folder} lacks {len(missing)} tensors of the model: {', '.join(missing)}. "
            "Export it again with this version."
        )
    model.load_state_dict(restored)
    return model.eval().requires_grad_(False)


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
