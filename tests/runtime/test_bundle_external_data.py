"""Graphs that keep tensors in other files: those that the manifest lists, and no others."""

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
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.manifest import MANIFEST_FILE

WEIGHTS = "image_encoder.data"
IMAGE = np.full((50, 70), 90, np.uint8)

needs_external_data = pytest.mark.skipif(
    not hasattr(onnxruntime.SessionOptions, "add_external_initializers_from_files_in_memory"),
    reason="this ONNX Runtime cannot take external data from memory",
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
    assert f"keeps tensors in '{location[:40]}" in str(caught.value)
    assert "which the manifest does not list in its external_data" in str(caught.value)


def test_a_listed_file_outside_the_folder_is_refused(disc_bundle_copy: Path) -> None:
    weights = keep_outside(disc_bundle_copy, "../outside.data", ["../outside.data"])
    (disc_bundle_copy.parent / "outside.data").write_bytes(weights)
    with pytest.raises(BundleError, match=r"names the file '\.\./outside\.data', which is outside"):
        Bundle.open(disc_bundle_copy)


def test_an_onnx_runtime_that_cannot_take_them_says_so(
    disc_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    weights = keep_outside(disc_bundle_copy, WEIGHTS, [WEIGHTS])
    (disc_bundle_copy / WEIGHTS).write_bytes(weights)

    class OldOptions:
        """Of an ONNX Runtime without the method that takes files from memory."""

        def add_session_config_entry(self, key: str, value: str) -> None:
            pass

    monkeypatch.setattr(onnxruntime, "SessionOptions", OldOptions)
    with pytest.raises(BackendError, match=r"image_encoder\.onnx keeps tensors in other files"):
        Segmenter.load(disc_bundle_copy, threads=1)
