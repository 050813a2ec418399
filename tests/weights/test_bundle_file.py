"""A bundle's graphs hold the model that was exported, bit for bit."""

import json
from pathlib import Path

import onnx
import pytest
import torch

from samus_edge.errors import ExportMismatchError, WeightsError
from samus_edge.export.bundle_writer import shipped_model
from samus_edge.export.parity import measure_parity
from samus_edge.export.tensor_map import TENSOR_MAP_KEY, map_tensors
from samus_edge.modeling import SamusHF
from samus_edge.runtime.bundle import default_bundle_folder
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.runtime.manifest import MANIFEST_FILE
from samus_edge.weights.bundle_file import load_bundle_model
from tests.conftest import AssetFrame


def test_model_comes_back_bit_for_bit(random_model: SamusHF, random_bundle: Path) -> None:
    expected = shipped_model(random_model).state_dict()
    restored = load_bundle_model(random_bundle).state_dict()
    assert restored.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(restored[name], expected[name])]
    assert different == []


def test_initialisers_carry_the_names_of_the_model(random_bundle: Path) -> None:
    graph = onnx.load(random_bundle / "image_encoder.onnx")
    names = {initializer.name for initializer in graph.graph.initializer}
    assert "image_encoder.stage2.0.mlp.fc1.weight.transposed.fp16" in names
    assert "image_encoder.cnn_branch.steps.0.conv.weight" in {
        name.removesuffix(".fp16") for name in names
    }


def test_bundle_without_a_tensor_map_is_refused(random_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    manifest = json.loads((random_bundle / MANIFEST_FILE).read_text(encoding="utf-8"))
    for name in ("image_encoder", "mask_decoder"):
        graph = onnx.load(random_bundle / f"{name}.onnx")
        kept = [entry for entry in graph.metadata_props if entry.key != TENSOR_MAP_KEY]
        del graph.metadata_props[:]
        graph.metadata_props.extend(kept)
        path = folder / f"{name}.onnx"
        onnx.save(graph, path)
        manifest["graphs"][name] |= {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(WeightsError, match="does not say where its graphs keep"):
        load_bundle_model(folder)


def test_a_tensor_that_the_graph_lacks_is_named(random_bundle: Path) -> None:
    graph = onnx.load(random_bundle / "mask_decoder.onnx")
    absent = {"mask_decoder.never_there.weight": torch.rand(4, 5).numpy()}
    with pytest.raises(ExportMismatchError, match=r"mask_decoder\.never_there\.weight"):
        map_tensors(graph, absent)


@pytest.mark.slow
def test_default_bundle_computes_what_its_torch_model_computes(
    asset_frames: list[AssetFrame],
) -> None:
    """The shipped files against torch, on twenty real frames of different sizes and shapes."""
    frames = [frame.image for frame in asset_frames]
    report = measure_parity(load_bundle_model(), default_bundle_folder(), frames, seed=1)
    assert len({frame.shape for frame in frames}) == report.frames == 20
    assert report.max_abs_logit_error <= 1e-3
    assert report.min_mask_iou >= 0.999
