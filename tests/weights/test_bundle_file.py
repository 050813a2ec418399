"""A bundle's graphs hold the model that was exported, bit for bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from samus_edge.errors import ExportMismatchError, WeightsError
from samus_edge.export.bundle_writer import shipped_model
from samus_edge.export.parity import measure_parity
from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.modeling.layers import ConvNorm
from samus_edge.runtime.bundle.bundle import default_bundle_path
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE
from samus_edge.runtime.images.output_files import sha256_of_file
from samus_edge.weights.bundle_file import TENSOR_MAP_KEY, load_bundle_model, map_tensors
from tests.conftest import AssetFrame


def test_model_comes_back_bit_for_bit(random_model: SamusHF, random_bundle: Path) -> None:
    expected = shipped_model(random_model).state_dict()
    restored = load_bundle_model(random_bundle).state_dict()
    assert restored.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(restored[name], expected[name])]
    assert different == []


def test_model_comes_back_from_a_zip(random_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", random_bundle))
    expected = load_bundle_model(random_bundle).state_dict()
    restored = load_bundle_model(path).state_dict()
    assert restored.keys() == expected.keys()
    assert all(torch.equal(restored[name], expected[name]) for name in expected)


def test_tensors_outside_the_graphs_are_not_read(random_bundle: Path, tmp_path: Path) -> None:
    folder = rewrite_bundle(random_bundle, tmp_path / "bundle", lambda graph: None)
    (folder / "more.data").write_bytes(b"x")
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    listed = {"file": "more.data", "bytes": 1, "sha256": sha256_of_file(folder / "more.data")}
    manifest["graphs"]["mask_decoder"]["external_data"] = [listed]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(
        WeightsError, match="keeps tensors of mask_decoder outside the graph's file"
    ):
        load_bundle_model(folder)


def test_initialisers_carry_the_names_of_the_model(random_bundle: Path) -> None:
    graph = onnx.load(random_bundle / "image_encoder.onnx")
    names = {initializer.name for initializer in graph.graph.initializer}
    assert "image_encoder.stage2.0.mlp.fc1.weight.transposed.fp16" in names
    assert "image_encoder.cnn_branch.steps.0.conv.weight" in {
        name.removesuffix(".fp16") for name in names
    }


def rewrite_bundle(bundle: Path, folder: Path, edit: Callable[[ModelProto], None]) -> Path:
    """A copy of a bundle with edited graphs and a manifest that fits them."""
    folder.mkdir()
    manifest = json.loads((bundle / MANIFEST_FILE).read_text(encoding="utf-8"))
    for name in manifest["graphs"]:
        graph = onnx.load(bundle / f"{name}.onnx")
        edit(graph)
        path = folder / f"{name}.onnx"
        onnx.save(graph, path)
        manifest["graphs"][name] |= {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def edit_map(graph: ModelProto, is_kept: Callable[[str], bool]) -> None:
    """Remove tensors from a graph's map."""
    for entry in graph.metadata_props:
        if entry.key == TENSOR_MAP_KEY:
            places = json.loads(entry.value)
            entry.value = json.dumps({name: places[name] for name in places if is_kept(name)})


def test_bundle_without_a_tensor_map_is_refused(random_bundle: Path, tmp_path: Path) -> None:
    def remove_map(graph: ModelProto) -> None:
        kept = [entry for entry in graph.metadata_props if entry.key != TENSOR_MAP_KEY]
        del graph.metadata_props[:]
        graph.metadata_props.extend(kept)

    folder = rewrite_bundle(random_bundle, tmp_path / "bare", remove_map)
    with pytest.raises(WeightsError, match="does not say where its graphs keep"):
        load_bundle_model(folder)


def test_tensors_that_a_bundle_lacks_are_all_named(random_bundle: Path, tmp_path: Path) -> None:
    absent = {"image_encoder.skip0.bias", "mask_decoder.iou_token.weight"}
    folder = rewrite_bundle(
        random_bundle, tmp_path / "less", lambda graph: edit_map(graph, lambda n: n not in absent)
    )
    with pytest.raises(WeightsError, match=rf"lacks 2 tensors .*: {', '.join(sorted(absent))}\."):
        load_bundle_model(folder)


def test_switched_off_parts_are_recognised(random_bundle: Path, tmp_path: Path) -> None:
    def switch_off(graph: ModelProto) -> None:
        edit_map(graph, lambda name: ".cnn_branch.gate." not in name)
        for initializer in graph.graph.initializer:
            if initializer.name == "image_encoder.cnn_branch.steps.0.conv.weight":
                grey_only = numpy_helper.to_array(initializer)[:, :1]
                initializer.CopyFrom(numpy_helper.from_array(grey_only, initializer.name))

    folder = rewrite_bundle(random_bundle, tmp_path / "off", switch_off)
    expected = samus_hf_tiny(hf=False, gate=False, proposer=True)
    for module in expected.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    restored = load_bundle_model(folder).state_dict()
    assert restored.keys() == expected.state_dict().keys()
    assert restored["image_encoder.cnn_branch.steps.0.conv.weight"].shape == (32, 1, 3, 3)


def test_a_tensor_that_the_graph_lacks_is_named(random_bundle: Path) -> None:
    graph = onnx.load(random_bundle / "mask_decoder.onnx")
    absent = {"mask_decoder.never_there.weight": torch.rand(4, 5).numpy()}
    with pytest.raises(ExportMismatchError, match=r"mask_decoder\.never_there\.weight"):
        map_tensors(graph, absent)


@pytest.mark.slow
def test_default_bundle_computes_what_its_torch_model_computes(
    asset_frames: list[AssetFrame],
) -> None:
    """The shipped files against torch, on real frames of different sizes and shapes."""
    frames = [frame.image for frame in asset_frames[::3]]
    report = measure_parity(load_bundle_model(), default_bundle_path(), frames, seed=1)
    assert len({frame.shape for frame in frames}) == report.frames == 7
    assert report.max_abs_logit_error <= 1e-3
    assert report.min_mask_iou >= 0.999
