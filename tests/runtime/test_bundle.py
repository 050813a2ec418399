"""Opening bundles: every byte counts, and no path leaves the folder."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from samus_edge.errors import BundleError
from samus_edge.runtime import bundle as bundle_module
from samus_edge.runtime.bundle import Bundle, default_bundle_folder
from samus_edge.runtime.manifest import MANIFEST_FILE

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


def test_a_link_inside_the_folder_is_fine(disc_bundle_copy: Path) -> None:
    graph = disc_bundle_copy / GRAPH_FILES[0]
    graph.rename(disc_bundle_copy / "real.onnx")
    graph.symlink_to("real.onnx")
    assert Bundle.open(disc_bundle_copy).read_graph("image_encoder")


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


def test_a_graph_in_a_subfolder_is_fine(disc_bundle_copy: Path) -> None:
    (disc_bundle_copy / "fp32").mkdir()
    (disc_bundle_copy / GRAPH_FILES[0]).rename(disc_bundle_copy / "fp32" / "encoder.onnx")
    edit_manifest(disc_bundle_copy, "image_encoder", "file", "fp32/encoder.onnx")
    assert Bundle.open(disc_bundle_copy).read_graph("image_encoder")


def test_a_graph_changed_after_opening_is_not_run(disc_bundle_copy: Path) -> None:
    bundle = Bundle.open(disc_bundle_copy)
    (disc_bundle_copy / GRAPH_FILES[0]).write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"image_encoder\.onnx has changed since"):
        bundle.read_graph("image_encoder")


def test_an_unknown_graph_is_named_with_the_known_ones(disc_bundle: Path) -> None:
    with pytest.raises(BundleError, match="'encoder', only: image_encoder, mask_decoder"):
        Bundle.open(disc_bundle).graph_record("encoder")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere does not exist"):
        Bundle.open(tmp_path / "nowhere")


def test_a_file_is_not_a_bundle(disc_bundle: Path) -> None:
    with pytest.raises(
        BundleError, match=r"manifest\.json is neither a folder nor a whole zip file"
    ):
        Bundle.open(disc_bundle / MANIFEST_FILE)


def test_a_folder_without_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        Bundle.open(tmp_path)


def test_an_installation_without_default_bundle_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "default_bundle_folder", lambda: tmp_path / "none")
    with pytest.raises(BundleError, match="this installation has no default bundle"):
        Bundle.open()


def test_the_default_bundle_is_whole() -> None:
    if not default_bundle_folder().is_dir():
        pytest.skip(f"this checkout has no default bundle in {default_bundle_folder()}")
    assert set(Bundle.open().manifest.graphs) >= {"image_encoder", "mask_decoder"}
