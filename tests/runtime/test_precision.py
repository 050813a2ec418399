"""Bundles that offer several precisions."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_selection import GraphSelection
from samus_edge.runtime.manifest import MANIFEST_FILE, Manifest
from samus_edge.runtime.precision import (
    available_precisions,
    check_precision,
    precision_name,
    select_graphs,
)
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
    assert manifest.to_json() == document
    assert manifest.graphs[FP16_ENCODER].conversion == {"kept": ["Mul"]}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision must be one of auto, fp32, .*, got 'fp8'"):
        check_precision("fp8")
