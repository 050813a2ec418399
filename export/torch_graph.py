"""Torch modules to ONNX graphs with readable names."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from onnx import ModelProto, version_converter
from torch import Tensor, nn

from samus_edge.export.graph_cleanup import fix_resize_sizes
from samus_edge.export.node_names import name_by_module
from samus_edge.modeling.samus_hf import SamusHF

MIN_OPSET = 20  # the first with Gelu as one node
DEFAULT_OPSET = 20


class _Decoder(nn.Module):
    """The decoder's forward pass as one module, for the exporter."""

    def __init__(self, model: SamusHF) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`SamusHF.decode`."""
        sparse, dense = self.prompt_encoder(point_coords, point_labels, mask_input, has_mask_input)
        out: tuple[Tensor, Tensor] = self.mask_decoder(
            image_embeddings, self.prompt_encoder.dense_pe(), sparse, dense
        )
        return out


def encoder_core_graph(model: SamusHF, *, opset: int) -> ModelProto:
    """The encoder from `grey` and `high_frequency`, (B, 1, 256, 256), to `image_embeddings`."""
    side = model.prompt_encoder.image_size
    example = (torch.rand(2, 1, side, side), torch.rand(2, 1, side, side))
    batch = torch.export.Dim("batch", min=1, max=1024)
    return _export(
        model.image_encoder,
        example,
        inputs=("grey", "high_frequency"),
        outputs=("image_embeddings",),
        dynamic_shapes=({0: batch}, {0: batch}),
        opset=opset,
    )


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
    prompts = torch.export.Dim("prompts", min=1, max=1024)
    prompt_points = torch.export.Dim("points", min=2, max=1024)
    return _export(
        _Decoder(model),
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
        raise ValueError(f"opset must be {MIN_OPSET} or newer, got {opset}.")
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
    fix_resize_sizes(model)
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
