"""Engines of half-precision and 8-bit graphs, built by TensorRT-RTX on a machine without a GPU."""

import logging
import re
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from samus_edge.calibration.activation_ranges import measure_ranges
from samus_edge.calibration.half_precision import float_tensors, nodes_to_keep, to_half_precision
from samus_edge.calibration.quantisation import TENSORRT_INT8, quantisable_nodes, quantise
from samus_edge.export.weight_storage import expand_weights
from samus_edge.runtime.backends.tensorrt.engine_build import (
    build_engine,
    image_encoder_profile,
    mask_decoder_profile,
)
from samus_edge.runtime.backends.tensorrt.tensorrt_library import TensorRTLibrary
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import mask_input_hw
from tests.conftest import AssetFrame

LOGGER = "samus_edge.runtime.backends.tensorrt.tensorrt_library"
FRAMES = image_encoder_profile((64, 64), (512, 640), (1200, 1920))
ATTENTIONS = 13
INT8_KERNELS = 40
"""Least number of kernels that multiply int8 by int8 in the quantised encoder; there are 60 or
so."""


@pytest.fixture(scope="module")
def encoder() -> ModelProto:
    """The default bundle's image encoder, weights in float32."""
    graph = onnx.load_from_string(Bundle.open().read_graph("image_encoder"))
    expand_weights(graph)
    return graph


@pytest.fixture(scope="module")
def kept(encoder: ModelProto, asset_frames: list[AssetFrame]) -> list[str]:
    """Nodes of the encoder that half precision leaves in float32."""
    given = {item.name for item in (*encoder.graph.input, *encoder.graph.initializer)}
    tensors = sorted(float_tensors(encoder) - given)
    samples = [{"image": asset_frames[-1].image[None]}]
    ranges = measure_ranges(encoder, tensors, samples)
    max_abs = {name: max(-low, high) for name, (low, high) in ranges.items()}
    return [node.name for node in nodes_to_keep(encoder, max_abs)]


def test_a_half_precision_image_encoder_builds_for_turing(
    rtx: TensorRTLibrary, encoder: ModelProto, kept: list[str]
) -> None:
    """Turing has no float32 products in TensorRT-RTX: none is kept."""
    engine = build_engine(
        to_half_precision(encoder, kept).SerializeToString(),
        library=rtx,
        name="fp16",
        profiles=[FRAMES],
        compute_capability="7.5",
    )
    assert len(engine) > 1_000_000


def test_half_precision_fuses_attention_and_what_follows_products(
    rtx: TensorRTLibrary, encoder: ModelProto, kept: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """By the kinds of kernels: an attention that is not fused has two products of its own, and a
    product with what follows it, Gelu or an addition, is a `runtime_fusion`."""
    kinds: list[Counter[str]] = []
    for graph in (encoder, to_half_precision(encoder, kept)):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, LOGGER):
            build_engine(
                graph.SerializeToString(),
                library=rtx,
                profiles=[image_encoder_profile((480, 640))],
                compute_capability="8.6",
                log_layers=True,
            )
        log = "\n".join(record.getMessage() for record in caplog.records)
        kinds.append(Counter(re.findall(r"^Name: .*?, LayerType: (\w+)", log, re.MULTILINE)))
    fp32, fp16 = kinds
    assert fp32["gemm"] - fp16["gemm"] >= 2 * ATTENTIONS - 2
    assert fp16["runtime_fusion"] >= 60
    kernels = fp16.total() - fp16["signal"] - fp16["wait"]
    assert kernels <= 200


def test_an_8_bit_image_encoder_multiplies_8_bits(
    rtx: TensorRTLibrary,
    encoder: ModelProto,
    kept: list[str],
    asset_frames: list[AssetFrame],
    caplog: pytest.LogCaptureFixture,
) -> None:
    candidates = quantisable_nodes(encoder, TENSORRT_INT8)
    tensors = list(dict.fromkeys(candidates.values()))
    ranges = measure_ranges(encoder, tensors, [{"image": asset_frames[-1].image[None]}])
    nodes = list(candidates)
    graph = to_half_precision(quantise(encoder, nodes, ranges, TENSORRT_INT8), kept)
    with caplog.at_level(logging.DEBUG, LOGGER):
        engine = build_engine(
            graph.SerializeToString(),
            library=rtx,
            name="int8",
            profiles=[FRAMES],
            compute_capability="8.9",
            log_layers=True,
        )
    assert len(engine) > 1_000_000
    log = "\n".join(record.getMessage() for record in caplog.records)
    kernels = re.findall(r"LayerType: (?:gemm|correlation), Inputs: \[(.*?)\], Constants", log)
    assert sum("Datatype: Int8" in inputs for inputs in kernels) >= INT8_KERNELS


def test_a_half_precision_mask_decoder_builds_for_turing(rtx: TensorRTLibrary) -> None:
    bundle = Bundle.open()
    graph = onnx.load_from_string(bundle.read_graph("mask_decoder"))
    expand_weights(graph)
    rng = np.random.default_rng(0)
    feeds = {
        "image_embeddings": rng.normal(size=(1, 256, 32, 32)).astype(np.float32),
        "point_coords": np.array([[[20, 20], [200, 180]]], np.float32),
        "point_labels": np.array([[2, 3]], np.float32),
        "mask_input": np.zeros((1, 1, 128, 128), np.float32),
        "has_mask_input": np.zeros((1, 1), np.float32),
    }
    given = {item.name for item in (*graph.graph.input, *graph.graph.initializer)}
    tensors = sorted(float_tensors(graph) - given)
    ranges = measure_ranges(graph, tensors, [feeds])
    kept = nodes_to_keep(graph, {name: max(-low, high) for name, (low, high) in ranges.items()})
    engine = build_engine(
        to_half_precision(graph, [node.name for node in kept]).SerializeToString(),
        library=rtx,
        name="mask_decoder.fp16",
        profiles=[mask_decoder_profile(mask_input_hw(bundle.graph_record("mask_decoder")))],
        compute_capability="7.5",
    )
    assert len(engine) > 1_000_000
