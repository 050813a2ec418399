"""Torch modules to ONNX graphs with readable names."""

import ast
import contextlib
import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, compose, parser, version_converter
from torch import Tensor, nn

from samus_edge.errors import BadArgumentError
from samus_edge.export.graph_cleanup import remove_unused, rendered, slice_constants
from samus_edge.high_frequency import MIN_BAND_RANGE, MIN_SUM_RANGE
from samus_edge.modeling.lesion_proposer import LesionProposer
from samus_edge.modeling.samus_hf import SamusHF

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Where PyTorch's exporter notes the modules that a node comes from, outermost first."""


def name_by_module(model: ModelProto) -> None:
    """Name every node by its module and operator, and its outputs by the node, in place.

    `stage2/0/attn/qkv/MatMul` is the matrix product of the module `stage2.0.attn.qkv`. A module's
    second node of the same operator gets the suffix `_1`, the third `_2`. A node whose module is
    not noted takes that of the node before it. Inputs, outputs and initialisers of the graph keep
    their names.

    Args:
        model: a graph as PyTorch's exporter gives it, with its notes.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    fixed.update(initializer.name for initializer in graph.initializer)
    used: Counter[str] = Counter()
    tensors: dict[str, str] = {}
    module = ""
    for node in graph.node:
        module = _module_of(node) or module
        stem = f"{module.replace('.', '/')}/{node.op_type}".lstrip("/")
        count = used[stem]
        used[stem] += 1
        node.name = f"{stem}_{count}" if count else stem
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                tensors[output] = node.name if index == 0 else f"{node.name}:{index}"
    _rename_tensors(model, tensors)


def _module_of(node: NodeProto) -> str:
    """Dotted path of the innermost module, "" for the outermost or where none is noted."""
    for item in node.metadata_props:
        if item.key == SCOPES_KEY:
            scopes: list[str] = ast.literal_eval(item.value)
            # the last one is the operation; operations outside any module have the exporter's own
            paths = [scope for scope in scopes[:-1] if not scope.startswith("_")]
            return paths[-1] if paths else ""
    return ""


def _rename_tensors(model: ModelProto, names: Mapping[str, str]) -> None:
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = names.get(name, name)
    for value in model.graph.value_info:
        value.name = names.get(value.name, value.name)


def freeze_frame_size(model: ModelProto, frame_hw: tuple[int, int]) -> None:
    """Let an image encoder take one frame of one size, in place: all its shapes are constants.

    That is what CUDA graphs need and what lets an engine plan all memory beforehand.

    Args:
        model: `image` (B, H, W) to `image_embeddings` (B, C, h, w).
        frame_hw: (H, W) of every frame, pixels, at least 1.

    Raises:
        BadArgumentError: if a size is less than 1.
    """
    if min(frame_hw) < 1:
        raise BadArgumentError(f"frame_hw must be at least 1x1, got {frame_hw[0]}x{frame_hw[1]}.")
    (image,), (embeddings,) = model.graph.input, model.graph.output
    for dimension, size in zip(image.type.tensor_type.shape.dim, (1, *frame_hw), strict=True):
        dimension.dim_value = size
    embeddings.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # they name the sizes that varied


# Haar analysis of a 2x2 block (rows a b, c d): horizontal, vertical and diagonal details, as
# PyWavelets orders and signs them (cH, cV, cD)
HAAR_DETAILS = 0.5 * np.array(
    [[[[1, 1], [-1, -1]]], [[[1, -1], [1, -1]]], [[[1, -1], [-1, 1]]]], dtype=np.float32
)

PREPROCESSING_NUMBERS = {
    "per_grey_level": float(np.float32(1.0 / 255.0)),
    "min_band_range": MIN_BAND_RANGE,
    "min_sum_range": MIN_SUM_RANGE / 255.0,
    "haar_details": HAAR_DETAILS.ravel().tolist(),
}
"""What templates of preprocessing are filled with."""


def preprocessing_graph(*, image_size: int, opset: int, ir_version: int) -> ModelProto:
    """Build the graph from raw frames to the encoder's two inputs.

    Takes `image`, (B, H, W), uint8, any size; gives `grey` and `high_frequency`, (B, 1, S, S),
    float32 in [0, 1]. Every frame is scaled by its own minima and maxima. The odd row or column
    that PyWavelets pads is always appended, and an even frame's convolution leaves it out. Resize
    names the sizes of all four axes, since TensorRT's parser takes no `axes` beside a batch of
    unknown size.

    Args:
        image_size: S, side of the model input, pixels.
        opset: ONNX operator set, 18 or newer (axes of Pad and the reductions).
        ir_version: ONNX IR version of the model.

    Returns:
        A checked model; bands and sums are scaled to [0, 1] where the reference scales to 0..255.
    """
    text = rendered(
        "preprocessing.onnx.jinja",
        ir_version=ir_version,
        opset=opset,
        size=image_size,
        **PREPROCESSING_NUMBERS,
    )
    model = parser.parse_model(text)
    for index, node in enumerate(model.graph.node):
        node.name = f"preprocessing/{node.output[0] or index}"
    onnx.checker.check_model(model, full_check=True)
    return model


MIN_OPSET = 20  # the first with Gelu as one node
DEFAULT_OPSET = 20


class _Decoder(SamusHF):
    """The decoder as one module, for the exporter."""

    forward = SamusHF.decode


def mask_decoder_graph(model: SamusHF, *, opset: int) -> ModelProto:
    """The prompt encoder and mask decoder: N prompts of P points per call."""
    embedding_side = model.prompt_encoder.embedding_size
    count, points = 3, 4
    example = (
        torch.rand(1, model.mask_decoder.mask_tokens.embedding_dim, embedding_side, embedding_side),
        torch.rand(count, points, 2) * model.prompt_encoder.image_size,
        torch.ones(count, points),
        torch.rand(count, 1, 4 * embedding_side, 4 * embedding_side),
        torch.ones(count, 1),
    )
    prompt_encoder = copy.deepcopy(model.prompt_encoder)
    prompt_encoder.fold()
    prompts = torch.export.Dim("prompts", min=1, max=1024)
    prompt_points = torch.export.Dim("points", min=2, max=1024)
    return _export(
        _Decoder(
            image_encoder=nn.Identity(),
            prompt_encoder=prompt_encoder,
            mask_decoder=model.mask_decoder,
        ),
        example,
        inputs=("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input"),
        outputs=("low_res_masks", "iou_predictions"),
        dynamic_shapes=(
            None,
            {0: prompts, 1: prompt_points},
            {0: prompts, 1: prompt_points},
            {0: prompts},
            {0: prompts},
        ),
        opset=opset,
    )


class _Proposer(nn.Module):
    """The proposer as one module that gives boxes, for the exporter."""

    def __init__(self, proposer: LesionProposer) -> None:
        super().__init__()
        self.lesion_proposer = proposer

    def forward(self, image_embeddings: Tensor) -> tuple[Tensor, ...]:
        return self.lesion_proposer.propose(image_embeddings)


def lesion_proposer_graph(model: SamusHF, *, opset: int) -> ModelProto:
    """Build `lesion_proposer`, which gives what `LesionProposer.propose` does, by these names."""
    assert model.lesion_proposer is not None  # the caller asks only for what there is
    side = model.prompt_encoder.embedding_size
    channels = model.mask_decoder.mask_tokens.embedding_dim
    batch = torch.export.Dim("batch", min=1, max=1024)
    return _export(
        _Proposer(model.lesion_proposer),
        (torch.rand(2, channels, side, side),),
        inputs=("image_embeddings",),
        outputs=("boxes", "scores", "points", "lesion_map"),
        dynamic_shapes=({0: batch},),
        opset=opset,
    )


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[Mapping[int, Any] | None, ...],
    opset: int,
) -> ModelProto:
    if opset < MIN_OPSET:
        raise BadArgumentError(f"opset must be {MIN_OPSET} or newer, got {opset}.")
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            optimize=True,
            verify=False,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
        )
    assert program is not None  # the exporter returns one whenever dynamo is on
    model: ModelProto = program.model_proto
    if model.opset_import[0].version != opset:
        model = version_converter.convert_version(model, opset)
    name_by_module(model)
    _strip_traces(model)
    slice_constants(model)
    return model


def _strip_traces(model: ModelProto) -> None:
    """Remove the exporter's stack traces: megabytes, and paths of the exporting machine."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the exporter's progress lines and its warnings about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def image_encoder_graph(model: SamusHF, *, opset: int) -> ModelProto:
    """Build `image_encoder`: `image` (B, H, W) uint8 to `image_embeddings` (B, 256, 32, 32).

    Args:
        model: the model, constants folded, in evaluation mode.
        opset: ONNX operator set.

    Returns:
        One graph with resizing, scaling and the wavelet inside; a model without the switch `hf` has
        no wavelet.
    """
    side = model.prompt_encoder.image_size
    batch = torch.export.Dim("batch", min=1, max=1024)
    core = _export(
        model.image_encoder,
        (torch.rand(2, 1, side, side), torch.rand(2, 1, side, side)),
        inputs=("grey", "high_frequency"),
        outputs=("image_embeddings",),
        dynamic_shapes=({0: batch}, {0: batch}),
        opset=opset,
    )
    preprocessing = preprocessing_graph(image_size=side, opset=opset, ir_version=core.ir_version)
    merged: ModelProto = compose.merge_models(
        preprocessing,
        core,
        io_map=[("grey", "grey"), ("high_frequency", "high_frequency")],
        outputs=["image_embeddings"],
        name="image_encoder",
    )
    # merging lists the operator set once for each part, but a model has to name a domain once
    del merged.opset_import[1:]
    remove_unused(merged)
    return merged
