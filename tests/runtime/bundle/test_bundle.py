"""Bundles: every file checked when it is opened, and the precisions that it offers."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime.bundle import bundle as bundle_module
from samus_edge.runtime.bundle.bundle import (
    Bundle,
    available_precisions,
    check_precision,
    precision_name,
    select_graphs,
)
from samus_edge.runtime.bundle.bundle_files import is_safe_path
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE, GraphSelection, Manifest
from samus_edge.runtime.bundle.records import to_json
from samus_edge.runtime.segmenter import Segmenter

FP16_ENCODER = "image_encoder.fp16"
FRAME = np.full((40, 60), 100, np.uint8)


@pytest.fixture
def bundle_of_two(
    make_bundle: Callable[[list[onnx.GraphProto]], Path], disc_graphs: list[onnx.GraphProto]
) -> Path:
    """The disc bundle with a second image encoder, whose embeddings are half as large."""
    encoder, decoder = disc_graphs
    half = onnx.GraphProto()
    half.CopyFrom(encoder)
    half.name = FP16_ENCODER
    (white,) = (item for item in half.initializer if item.name == "white")
    white.CopyFrom(onnx.numpy_helper.from_array(np.asarray(510, np.float32), "white"))
    folder = make_bundle([encoder, decoder, half])
    manifest = Manifest.read(folder / MANIFEST_FILE)
    record = replace(manifest.graphs[FP16_ENCODER], precision="fp16", conversion={"kept": ["Mul"]})
    replace(
        manifest,
        graphs={**manifest.graphs, FP16_ENCODER: record},
        precisions={"fp16": GraphSelection(image_encoder=FP16_ENCODER)},
    ).write(folder / MANIFEST_FILE)
    return folder


def test_the_reference_comes_first_and_is_what_auto_takes(bundle_of_two: Path) -> None:
    bundle = Bundle.open(bundle_of_two)
    assert list(available_precisions(bundle)) == ["fp32", "fp16"]
    assert precision_name(bundle, "auto") == "fp32"
    assert select_graphs(bundle, "auto") == GraphSelection("image_encoder", "mask_decoder")
    assert select_graphs(bundle, "fp16") == GraphSelection(FP16_ENCODER, "mask_decoder")


def test_the_graphs_of_the_precision_compute(bundle_of_two: Path) -> None:
    with Segmenter.load(bundle_of_two, precision="auto", threads=1) as reference:
        full = reference.encode(FRAME)
    with Segmenter.load(bundle_of_two, precision="fp16", threads=1) as segmenter:
        half = segmenter.encode(FRAME)
        assert segmenter.precision == "fp16"
        with pytest.raises(ValueError, match="embedding was made by the image encoder"):
            segmenter.predict(full, boxes=[[1, 1, 20, 20]])
    np.testing.assert_allclose(half.image_embeddings, full.image_embeddings / 2, rtol=1e-6)


def test_a_precision_that_is_not_there_is_refused(bundle_of_two: Path) -> None:
    with pytest.raises(BackendError, match=r"is in fp32, fp16, not in int8-cpu\. .*calibrate"):
        Segmenter.load(bundle_of_two, precision="int8-cpu")


def test_a_bundle_without_conversions_has_its_reference_alone(disc_bundle: Path) -> None:
    assert available_precisions(Bundle.open(disc_bundle)) == {"fp32": GraphSelection()}


def test_a_selection_of_graphs_that_are_not_there_is_refused(bundle_of_two: Path) -> None:
    path = bundle_of_two / MANIFEST_FILE
    document = json.loads(path.read_text())
    document["precisions"]["fp16"]["image_encoder"] = "image_encoder.fp8"
    path.write_text(json.dumps(document))
    with pytest.raises(
        BundleError, match=r"precisions\.fp16\.image_encoder is 'image_encoder\.fp8', which is not"
    ):
        Bundle.open(bundle_of_two)


def test_what_a_later_version_added_to_a_selection_is_kept(bundle_of_two: Path) -> None:
    path = bundle_of_two / MANIFEST_FILE
    document = json.loads(path.read_text())
    document["precisions"]["fp16"]["since"] = "2.0"
    path.write_text(json.dumps(document))
    manifest = Manifest.read(path)
    assert to_json(manifest) == document
    assert manifest.graphs[FP16_ENCODER].conversion == {"kept": ["Mul"]}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision must be one of auto, fp32, .*, got 'fp8'"):
        check_precision("fp8")


GRAPH_FILES = ("image_encoder.onnx", "mask_decoder.onnx")


def edit_manifest(folder: Path, graph: str, field: str, value: object) -> None:
    """Set one field of a graph's record."""
    file = folder / MANIFEST_FILE
    document: dict[str, Any] = json.loads(file.read_text())
    document["graphs"][graph][field] = value
    file.write_text(json.dumps(document))


def test_a_whole_bundle_opens(disc_bundle: Path) -> None:
    bundle = Bundle.open(str(disc_bundle))
    assert bundle.manifest.name == "discs"
    for name in GRAPH_FILES:
        assert bundle.read_graph(Path(name).stem) == (disc_bundle / name).read_bytes()


@pytest.mark.parametrize("file", GRAPH_FILES)
@pytest.mark.parametrize("position", ["first", "middle", "last"])
def test_a_changed_byte_is_an_error_that_names_the_file(
    disc_bundle_copy: Path, file: str, position: str
) -> None:
    path = disc_bundle_copy / file
    content = bytearray(path.read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[position]] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{file} has SHA-256 [0-9a-f]{{64}}, expected"):
        Bundle.open(disc_bundle_copy)


def test_every_damaged_file_is_named_at_once(disc_bundle_copy: Path) -> None:
    (disc_bundle_copy / GRAPH_FILES[0]).unlink()
    with (disc_bundle_copy / GRAPH_FILES[1]).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError) as caught:
        Bundle.open(disc_bundle_copy)
    assert f"{GRAPH_FILES[0]} is missing" in str(caught.value)
    assert f"{GRAPH_FILES[1]} has" in str(caught.value)


@pytest.mark.parametrize(
    "outside",
    [
        "../outside.onnx",
        "sub/../../outside.onnx",
        "..\\outside.onnx",
        "C:outside.onnx",
        "C:\\outside.onnx",
        "{absolute}",
        "//outside.onnx",
        "*/_ORT_MEM_ADDR_/*",  # an address in memory to ONNX Runtime
    ],
)
def test_a_graph_outside_the_folder_is_refused(disc_bundle_copy: Path, outside: str) -> None:
    target = disc_bundle_copy.parent / "outside.onnx"
    (disc_bundle_copy / GRAPH_FILES[0]).rename(target)
    named = outside.format(absolute=target)
    edit_manifest(disc_bundle_copy, "image_encoder", "file", named)
    with pytest.raises(BundleError, match="which is outside the folder"):
        Bundle.open(disc_bundle_copy)


@pytest.mark.parametrize("file", [*GRAPH_FILES, MANIFEST_FILE])
def test_a_link_out_of_the_folder_is_refused(disc_bundle_copy: Path, file: str) -> None:
    graph = disc_bundle_copy / file
    target = disc_bundle_copy.parent / "outside.onnx"
    graph.rename(target)
    graph.symlink_to(target)
    with pytest.raises(BundleError, match=rf"{file} .* outside the folder"):
        Bundle.open(disc_bundle_copy)


def test_a_graph_in_a_subfolder_and_a_link_to_it_are_fine(disc_bundle_copy: Path) -> None:
    graph = disc_bundle_copy / GRAPH_FILES[0]
    (disc_bundle_copy / "fp32").mkdir()
    graph.rename(disc_bundle_copy / "fp32" / "encoder.onnx")
    graph.symlink_to("fp32/encoder.onnx")
    content = Bundle.open(disc_bundle_copy).read_graph("image_encoder")
    edit_manifest(disc_bundle_copy, "image_encoder", "file", "fp32/encoder.onnx")
    assert Bundle.open(disc_bundle_copy).read_graph("image_encoder") == content


def test_links_in_a_circle_are_refused(disc_bundle_copy: Path) -> None:
    graph = disc_bundle_copy / GRAPH_FILES[0]
    graph.unlink()
    graph.symlink_to(graph.name)
    with pytest.raises(BundleError, match=r"image_encoder\.onnx (leads to|is missing|cannot be)"):
        Bundle.open(disc_bundle_copy)


@pytest.mark.parametrize("file", [GRAPH_FILES[0], MANIFEST_FILE])
def test_a_pipe_is_not_waited_for(disc_bundle_copy: Path, file: str) -> None:
    (disc_bundle_copy / file).unlink()
    os.mkfifo(disc_bundle_copy / file)
    with pytest.raises(BundleError, match=rf"{file} is (missing|not a regular file)"):
        Bundle.open(disc_bundle_copy)


def test_a_graph_changed_after_opening_is_not_run(disc_bundle_copy: Path) -> None:
    bundle = Bundle.open(disc_bundle_copy)
    (disc_bundle_copy / GRAPH_FILES[0]).write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"image_encoder\.onnx has changed since"):
        bundle.read_graph("image_encoder")


def test_an_unknown_graph_is_named_with_the_known_ones(disc_bundle: Path) -> None:
    with pytest.raises(BundleError, match="'encoder', only: image_encoder, mask_decoder"):
        Bundle.open(disc_bundle).graph_record("encoder")


def test_what_is_no_bundle_is_named(disc_bundle: Path, tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nowhere", "nowhere does not exist"),
        (disc_bundle / MANIFEST_FILE, r"manifest\.json is neither a folder nor a whole zip file"),
        (tmp_path, r"manifest\.json cannot be read"),
    ):
        with pytest.raises(BundleError, match=message):
            Bundle.open(path)


def test_an_installation_without_default_bundle_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "default_bundle_path", lambda: tmp_path / "none")
    with pytest.raises(BundleError, match="this installation has no default bundle"):
        Bundle.open()


@pytest.mark.parametrize("path", ["a.onnx", "fp32/a.onnx", "..a", "a..b/c.", ".hidden", "ä ö"])
def test_plain_relative_paths_are_safe(path: str) -> None:
    assert is_safe_path(path)


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "/", "/etc/passwd", "a/../b", "a/..", "./a", "a//b", "a/"),
        *("C:", "C:a", "C:\\a", "C:/a", "\\\\server\\share", "a\\b", "..\\a", "a:stream"),
        *("a\0b", "a\nb", "a\x1bb", "\ud800", "*/_ORT_MEM_ADDR_/*", "a?", "x" * 256),
    ],
)
def test_paths_that_leave_the_folder_on_some_system_are_not(path: str) -> None:
    assert not is_safe_path(path)
