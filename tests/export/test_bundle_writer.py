"""Bundles are written whole, the same every time, or not at all."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

from samus_edge.errors import ExportMismatchError, SamusEdgeError
from samus_edge.export import bundle_writer
from samus_edge.export.bundle_writer import (
    BundleText,
    graph_tensors,
    shipped_model,
    write_bundle,
)
from samus_edge.export.graph_cleanup import graph_file
from samus_edge.export.parity import ParityReport
from samus_edge.export.torch_graph import DEFAULT_OPSET, image_encoder_graph
from samus_edge.export.weight_storage import store_compactly
from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.images import output_files as folder_replacement
from samus_edge.runtime.images.output_files import put_in_place
from samus_edge.weights.bundle_file import map_tensors
from tests.conftest import AssetFrame, spare_export


def folder_with(path: Path, content: str) -> Path:
    """A folder that holds one file."""
    path.mkdir(parents=True)
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("can_exchange", [True, False])
def test_the_new_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(folder_replacement, "_exchange", lambda first, second: False)
    draft = folder_with(tmp_path / "drafts" / "draft", "new")
    folder = folder_with(tmp_path / "place", "old")
    put_in_place(draft, folder)
    assert (folder / "file").read_text() == "new"
    (left,) = (tmp_path / "drafts").iterdir()
    assert (left / "file").read_text() == "old"


def test_a_place_that_is_free_is_taken(tmp_path: Path) -> None:
    draft = folder_with(tmp_path / "drafts" / "draft", "new")
    put_in_place(draft, tmp_path / "place")
    assert (tmp_path / "place" / "file").read_text() == "new"
    assert [*(tmp_path / "drafts").iterdir()] == []


def test_a_failure_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_replacement, "_exchange", lambda first, second: False)
    folder = folder_with(tmp_path / "place", "old")
    (tmp_path / "drafts").mkdir()
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "drafts" / "missing", folder)
    assert (folder / "file").read_text() == "old"


FILES = ["image_encoder.onnx", "lesion_proposer.onnx", "manifest.json", "mask_decoder.onnx"]
MAX_BYTES = 24e6


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_exports_give_the_same_bytes(shipped_vit_model: SamusHF, vit_bundle: Path) -> None:
    graph = image_encoder_graph(shipped_vit_model, opset=DEFAULT_OPSET)
    map_tensors(graph, graph_tensors(shipped_vit_model, "image_encoder"))
    store_compactly(graph)
    again = graph_file(graph, "image_encoder")
    assert again == (vit_bundle / "image_encoder.onnx").read_bytes()


def test_two_bundles_of_one_export_differ_in_nothing(
    random_bundle: Path, write_again: Callable[..., None], tmp_path: Path
) -> None:
    write_again(tmp_path / "again")
    first, again = contents(random_bundle), contents(tmp_path / "again")
    assert sorted(first) == sorted(again) == FILES
    manifests = [json.loads(files.pop("manifest.json")) for files in (first, again)]
    assert first == again
    for manifest in manifests:
        del manifest["parity"]  # measured anew, on other frames
    assert manifests[0] == manifests[1]


def test_the_manifest_tells_where_the_bundle_comes_from(random_bundle: Path) -> None:
    manifest = Bundle.open(random_bundle).manifest
    assert manifest.name == "random-weights"
    assert (manifest.model, manifest.arch) == ("samus_hf", "tiny")
    assert manifest.weights_sha256 == "0" * 64
    assert manifest.created_with["torch"] == torch.__version__
    assert manifest.created_with.keys() == {"samus_edge", "torch", "onnx", "onnxruntime"}
    assert manifest.prompts.size == manifest.preprocessing.image_size == 256
    assert manifest.mask_threshold == 0.0
    assert manifest.licence == "Apache-2.0"
    assert any("LiteMedSAM" in credit and "BUSI" in credit for credit in manifest.credits)
    assert any("Not a medical device" in limit for limit in manifest.limits)
    assert manifest.parity["frames"] == 2 and manifest.parity["prompts"] == 6
    sizes = [record.size_bytes for record in manifest.graphs.values()]
    assert sum(sizes) <= MAX_BYTES


def test_an_existing_folder_is_left_alone_unless_it_is_to_be_replaced(
    write_again: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parity = ParityReport(1, 3, 1e-4, 1e-4, 1.0, ((64, 64),))
    monkeypatch.setattr(bundle_writer, "measure_parity", lambda *arguments: parity)
    folder = tmp_path / "bundle"
    write_again(folder)
    (folder / "note.txt").write_text("of the earlier bundle")
    before = contents(folder)
    with pytest.raises(
        SamusEdgeError, match=r"bundle exists\. Give another folder, or --overwrite"
    ):
        write_again(folder)
    assert contents(folder) == before
    write_again(folder, overwrite=True)
    assert sorted(contents(folder)) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(
    write_again: Callable[..., None], tmp_path: Path
) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"irreplaceable")
    with pytest.raises(SamusEdgeError, match=r"holiday is not a bundle and is not replaced"):
        write_again(folder, overwrite=True)
    assert contents(folder) == {"photo.jpg": b"irreplaceable"}


def shift_a_weight(model: ModelProto) -> None:
    """Change the last convolution of the encoder, which a slightly wrong storage would."""
    for initializer in model.graph.initializer:
        if initializer.name == "image_encoder.neck_out.1.bias":
            changed = numpy_helper.to_array(initializer) + np.float32(0.05)
            initializer.CopyFrom(numpy_helper.from_array(changed, initializer.name))


def test_files_that_compute_something_else_are_not_left_behind(
    write_again: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    write_again(folder)
    before = contents(folder)
    monkeypatch.setattr(bundle_writer, "store_compactly", shift_a_weight)
    for place, overwrite in ((tmp_path / "new", False), (folder, True)):
        with pytest.raises(ExportMismatchError, match=r"max logit error .*, allowed 1e-03"):
            write_again(place, overwrite=overwrite)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_graph_of_another_model_is_refused(
    random_model: SamusHF, write_again: Callable[..., None], tmp_path: Path
) -> None:
    other = samus_hf_tiny(proposer=True)
    other.load_state_dict(random_model.state_dict())
    with torch.no_grad():
        other.get_parameter("image_encoder.skip1.weight").add_(0.25)
    with pytest.raises(ExportMismatchError, match=r"image_encoder\.skip1\.weight"):
        write_again(tmp_path / "bundle", model=other)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": []}, "frames must hold at least one real frame"),
        ({"opset": 16}, "opset must be from 17 to 23, got 16"),
        ({"frame_hw": (480, 640)}, "frames must all be 480x640"),
    ],
)
def test_bad_arguments_are_refused_before_the_export(
    random_model: SamusHF,
    asset_frames: list[AssetFrame],
    tmp_path: Path,
    wrong: dict[str, Any],
    message: str,
) -> None:
    arguments = {"frames": [asset_frames[-1].image], **wrong}
    text = BundleText("refused")
    with pytest.raises(ValueError, match=message):
        write_bundle(
            random_model, tmp_path / "bundle", text=text, weights_sha256="0" * 64, **arguments
        )
    assert not any(tmp_path.iterdir())


def test_the_graphs_of_another_bundle_with_these_weights_are_those_of_the_exporter(
    random_model: SamusHF,
    random_bundle: Path,
    vit_bundle: Path,
    exported_graphs: dict[str, ModelProto],
    asset_frames: list[AssetFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Byte for byte; where they do not fit, the exporter is asked."""

    def ask(model: SamusHF, *, opset: int) -> ModelProto:
        raise AssertionError("asked")

    spare_export(monkeypatch, bundle_writer, exported_graphs)  # the proposer's
    for name in ("image_encoder_graph", "mask_decoder_graph"):
        monkeypatch.setattr(bundle_writer, name, ask)
    arguments: dict[str, Any] = {
        "text": BundleText("refilled"),
        "weights_sha256": "0" * 64,
        "frames": [asset_frames[-1].image],
    }
    write_bundle(random_model, tmp_path / "bundle", template=Bundle.open(), **arguments)
    for name in ("image_encoder.onnx", "mask_decoder.onnx"):
        assert (tmp_path / "bundle" / name).read_bytes() == (random_bundle / name).read_bytes()

    unequal = copy.deepcopy(random_model)  # in what the default bundle's graph keeps once
    unequal.image_encoder.get_parameter("skip1.bias").add_(0.1)
    others: list[dict[str, Any]] = [
        {"model": unequal, "template": Bundle.open()},
        {"template": Bundle.open(vit_bundle)},
        {"template": Bundle.open(), "opset": 21},
        {"model": samus_hf_tiny(hf=False).eval(), "template": Bundle.open()},
    ]
    for other in others:
        with pytest.raises(AssertionError, match="asked"):
            write_bundle(
                **{"model": random_model, "folder": tmp_path / "other", **arguments, **other}
            )


def test_the_model_is_left_as_it_was(random_model: SamusHF) -> None:
    before = {name: tensor.clone() for name, tensor in random_model.state_dict().items()}
    shipped = shipped_model(random_model)
    assert before.keys() == random_model.state_dict().keys() != shipped.state_dict().keys()
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in random_model.state_dict().items()
    )


def test_rounding_moves_the_embeddings_little(
    random_model: SamusHF, shipped_random_model: SamusHF
) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 256, 256, generator=generator)
    with torch.no_grad():
        exact = random_model.image_encoder(image, image)
        rounded = shipped_random_model.image_encoder(image, image)
    # half precision keeps 11 bits; the embeddings have unit variance
    assert float((rounded - exact).abs().max()) < 0.02
