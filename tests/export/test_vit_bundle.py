"""A bundle of the ViT architecture: the same contract, parity, and the way back to torch."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from samus_edge.errors import WeightsError
from samus_edge.export.bundle_writer import (
    BundleText,
    graph_tensors,
    preprocessing_of,
    shipped_model,
)
from samus_edge.export.torch_graph import DEFAULT_OPSET, image_encoder_graph
from samus_edge.modeling import SamusHF
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE
from samus_edge.runtime.images.output_files import sha256_of_file
from samus_edge.weights.bundle_file import TENSOR_MAP_KEY, load_bundle_model, map_tensors
from tests.conftest import AssetFrame
from tests.export.conftest import run_graph, small_vit

MAX_EMBEDDING_ERROR = 1e-3
"""Float32 through the encoder; embeddings reach about 5."""
MAX_LOGIT_ERROR = 1e-3
MIN_MASK_IOU = 0.999

WAVELET_OPERATORS = {"ReduceMin", "ReduceMax", "ReduceSum", "Max"}
"""Nothing else in the encoder uses them."""


def test_the_runtime_segments_with_it(vit_bundle: Path, asset_frames: list[AssetFrame]) -> None:
    frame = asset_frames[0]
    with Segmenter.load(vit_bundle, threads=1) as segmenter:
        embedding = segmenter.encode(frame.image)
        prediction = segmenter.predict(embedding, boxes=frame.box[None])
    assert embedding.image_embeddings.shape == (1, 256, 32, 32)
    assert prediction.masks.shape == (1, 1, *frame.image.shape)
    assert np.isfinite(prediction.low_res_logits).all()


def test_its_manifest_says_what_it_is(vit_bundle: Path) -> None:
    manifest = Bundle.open(vit_bundle).manifest
    assert (manifest.name, manifest.model, manifest.arch) == ("samus-hf-vit-b", "samus_hf", "vit_b")
    assert not any("LiteMedSAM" in credit or "BUSI" in credit for credit in manifest.credits)
    assert any("SAM ViT-B" in credit for credit in manifest.credits)
    assert any("Not a medical device" in limit for limit in manifest.limits)
    assert "Haar" in manifest.preprocessing.high_frequency
    assert 0 < float(str(manifest.parity["max_abs_logit_error"])) <= MAX_LOGIT_ERROR
    assert float(str(manifest.parity["min_mask_iou"])) >= MIN_MASK_IOU


def test_a_bundle_is_named_after_its_architecture(random_model: SamusHF) -> None:
    text = BundleText.of(random_model)
    assert text == BundleText("samus-hf-tiny")
    assert BundleText.of(random_model, "mine").name == "mine"


def test_its_weights_are_half_precision_numbers(shipped_vit_model: SamusHF) -> None:
    state = shipped_vit_model.state_dict()
    large = {name: tensor for name, tensor in state.items() if tensor.numel() >= 65_536}
    assert any(name.startswith("mask_decoder.") for name in large)
    assert [name for name, tensor in large.items() if not tensor.equal(tensor.half().float())] == []


def test_model_comes_back_bit_for_bit(shipped_vit_model: SamusHF, vit_bundle: Path) -> None:
    expected = shipped_vit_model.state_dict()
    restored = load_bundle_model(vit_bundle).state_dict()
    assert restored.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(restored[name], expected[name])] == []


def test_positions_are_constants_and_the_wavelet_is_inside(vit_bundle: Path) -> None:
    graph = onnx.load(vit_bundle / "image_encoder.onnx").graph
    names = {initializer.name.removesuffix(".fp16") for initializer in graph.initializer}
    operators = {node.op_type for node in graph.node}
    assert operators > WAVELET_OPERATORS  # with HF it is inside
    assert "image_encoder.position.table" in names
    assert "image_encoder.blocks.1.attn.rel_pos_w" in names
    assert not any("position.adapter" in name for name in names)


@pytest.mark.parametrize(
    "absent", ["image_encoder.patch_embed.weight", "image_encoder.blocks.1.norm2.bias"]
)
def test_a_tensor_that_the_bundle_lacks_is_named(
    absent: str, vit_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "less"
    folder.mkdir()
    for path in vit_bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    graph_path = folder / "image_encoder.onnx"
    graph = onnx.load(graph_path)
    for entry in graph.metadata_props:
        if entry.key == TENSOR_MAP_KEY:
            places = json.loads(entry.value)
            del places[absent]
            entry.value = json.dumps(places)
    onnx.save(graph, graph_path)
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    manifest["graphs"]["image_encoder"] |= {
        "sha256": sha256_of_file(graph_path),
        "bytes": graph_path.stat().st_size,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(WeightsError, match=rf"lacks 1 tensors .*: {absent}\."):
        load_bundle_model(folder)


def test_a_fresh_encoder_without_hf_and_gate(asset_frames: list[AssetFrame]) -> None:
    """As the builder makes it: what SAMUS adds to SAM is zero, and so are all positions."""
    model = shipped_model(small_vit(hf=False, gate=False))
    assert preprocessing_of(model).high_frequency.startswith("none")
    graph = image_encoder_graph(model, opset=DEFAULT_OPSET)
    map_tensors(graph, graph_tensors(model, "image_encoder"))
    assert not WAVELET_OPERATORS & {node.op_type for node in graph.graph.node}
    frame = asset_frames[-1].image[None]
    found = run_graph(graph.SerializeToString())({"image": frame})["image_embeddings"]
    with torch.no_grad():
        expected = model.encode_frames(torch.from_numpy(frame)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=MAX_EMBEDDING_ERROR)
