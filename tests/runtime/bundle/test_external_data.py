"""Tensors in other files: checked, and never read from elsewhere."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE

WEIGHTS = "image_encoder.data"
IMAGE = np.full((50, 70), 90, np.uint8)

needs_external_data = pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24),
    reason="this ONNX Runtime does not keep external data to the bundle",
)


def record_of(content: bytes) -> dict[str, Any]:
    """Size and hash as a manifest has them."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def keep_outside(folder: Path, location: str, listed: list[str], subfolder: str = "") -> bytes:
    """Move the encoder's largest tensor to a file, and let the manifest list some files.

    Returns:
        What the file has to hold.
    """
    model = onnx.load(folder / "image_encoder.onnx")
    tensor = max(model.graph.initializer, key=lambda item: item.ByteSize())
    weights: bytes = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(len(weights)))):
        tensor.external_data.add(key=key, value=value)
    content = model.SerializeToString()
    (folder / "image_encoder.onnx").unlink()
    graph_file = folder / subfolder / "image_encoder.onnx"
    graph_file.parent.mkdir(exist_ok=True)
    graph_file.write_bytes(content)
    document = json.loads((folder / MANIFEST_FILE).read_text())
    graph = document["graphs"]["image_encoder"]
    graph |= {"file": f"{subfolder}image_encoder.onnx", **record_of(content)}
    graph["external_data"] = [{"file": file, **record_of(weights), "later": 1} for file in listed]
    (folder / MANIFEST_FILE).write_text(json.dumps(document))
    return weights


@needs_external_data
@pytest.mark.parametrize("subfolder", ["", "fp32/"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_listed_files_are_checked_and_used(
    disc_bundle_copy: Path, disc_segmenter: Segmenter, subfolder: str, form: str
) -> None:
    file = subfolder + WEIGHTS
    weights = keep_outside(disc_bundle_copy, WEIGHTS, [file], subfolder)
    (disc_bundle_copy / file).write_bytes(weights)
    bundle = disc_bundle_copy
    if form == "zip":
        bundle = Path(shutil.make_archive(str(bundle), "zip", bundle))
    expected = disc_segmenter.encode(IMAGE).image_embeddings
    with Segmenter.load(bundle, threads=1) as segmenter:
        assert np.array_equal(segmenter.encode(IMAGE).image_embeddings, expected)


def test_listed_files_survive_reading_and_writing(disc_bundle_copy: Path) -> None:
    weights = keep_outside(disc_bundle_copy, WEIGHTS, [WEIGHTS])
    (disc_bundle_copy / WEIGHTS).write_bytes(weights)
    file = disc_bundle_copy / MANIFEST_FILE
    before = json.loads(file.read_text())
    Bundle.open(disc_bundle_copy).manifest.write(file)
    assert json.loads(file.read_text()) == before
    assert before["graphs"]["image_encoder"]["external_data"][0]["later"] == 1


@pytest.mark.parametrize("change", ["missing", "byte", "longer"])
def test_a_listed_file_that_differs_is_named(disc_bundle_copy: Path, change: str) -> None:
    weights = keep_outside(disc_bundle_copy, WEIGHTS, [WEIGHTS])
    changed = {"byte": b"\1" + weights[1:], "longer": weights + b"\0"}
    if change in changed:
        (disc_bundle_copy / WEIGHTS).write_bytes(changed[change])
    expected = {"missing": "is missing", "byte": "has SHA-256", "longer": "bytes, expected"}
    with pytest.raises(BundleError, match=rf"image_encoder\.data .*{expected[change]}"):
        Bundle.open(disc_bundle_copy)


@pytest.mark.parametrize(
    "location", [WEIGHTS, "../outside.data", "*/_ORT_MEM_ADDR_/*", "{absolute}"]
)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_file_that_is_not_listed_is_refused(
    disc_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, location: str, form: str
) -> None:
    """Also where ONNX Runtime would find it: relative to the working directory."""
    outside = disc_bundle_copy.parent / "outside.data"
    location = location.format(absolute=outside)
    weights = keep_outside(disc_bundle_copy, location, [])
    for path in (disc_bundle_copy / WEIGHTS, outside):
        path.write_bytes(weights)
    monkeypatch.chdir(disc_bundle_copy)
    bundle = disc_bundle_copy
    if form == "zip":
        bundle = Path(shutil.make_archive(str(bundle), "zip", bundle))
    with pytest.raises(BundleError) as caught:
        Segmenter.load(bundle, threads=1)
    assert "image_encoder.onnx keeps tensors in other files" in str(caught.value)


def test_a_listed_file_outside_the_folder_is_refused(disc_bundle_copy: Path) -> None:
    weights = keep_outside(disc_bundle_copy, "../outside.data", ["../outside.data"])
    (disc_bundle_copy.parent / "outside.data").write_bytes(weights)
    with pytest.raises(BundleError, match=r"names the file '\.\./outside\.data', which is outside"):
        Bundle.open(disc_bundle_copy)


def test_an_onnx_runtime_that_reads_anything_is_refused(
    disc_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = keep_outside(disc_bundle_copy, WEIGHTS, [WEIGHTS])
    (disc_bundle_copy / WEIGHTS).write_bytes(weights)
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(BackendError, match=r"image_encoder\.onnx keeps tensors in other files"):
        Segmenter.load(disc_bundle_copy, threads=1)


@needs_external_data
@pytest.mark.parametrize("location", ["hidden.data", "../outside.data", "{absolute}"])
def test_a_location_that_a_repeated_value_hides_is_not_read(
    disc_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """Of a value that is there twice the last counts; ONNX Runtime finds no file of that name."""
    outside = disc_bundle_copy.parent / "outside.data"
    location = location.format(absolute=outside)
    weights = keep_outside(disc_bundle_copy, WEIGHTS, [WEIGHTS])
    for path in (disc_bundle_copy / WEIGHTS, disc_bundle_copy / "hidden.data", outside):
        path.write_bytes(weights)
    graph_file = disc_bundle_copy / "image_encoder.onnx"
    model = onnx.load(graph_file, load_external_data=False)
    (tensor,) = (each for each in model.graph.initializer if each.external_data)
    # An entry of as many bytes as the second value will take, so that no outer length changes.
    padding = "x" * (len(location) - 5)
    length = tensor.external_data[1]
    tensor.external_data.add(key="p", value=padding)
    tensor.external_data.add(key="length", value=length.value)
    del tensor.external_data[1]
    honest = b"\x0a\x08location\x12" + bytes([len(WEIGHTS)]) + WEIGHTS.encode()
    second = b"\x0a\x01p\x12" + bytes([len(padding)]) + padding.encode()
    doubled = honest + b"\x12" + bytes([len(location)]) + location.encode()
    before = b"\x6a" + bytes([len(honest)]) + honest + b"\x6a" + bytes([len(second)]) + second
    after = b"\x6a" + bytes([len(doubled)]) + doubled
    content = model.SerializeToString()
    assert len(before) == len(after) and content.count(before) == 1
    content = content.replace(before, after)
    hidden = onnx.load_from_string(content).graph.initializer
    assert location in [entry.value for each in hidden for entry in each.external_data]
    graph_file.write_bytes(content)
    document = json.loads((disc_bundle_copy / MANIFEST_FILE).read_text())
    document["graphs"]["image_encoder"] |= record_of(content)
    (disc_bundle_copy / MANIFEST_FILE).write_text(json.dumps(document))
    monkeypatch.chdir(disc_bundle_copy)
    with pytest.raises((BackendError, BundleError), match="xternal"):
        Segmenter.load(disc_bundle_copy, threads=1)
