"""What a segmenter refuses: prompts, embeddings, bundles, and work after it was closed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime import Segmenter

BLACK = np.zeros((480, 640), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no prompt was given"),
        ({"boxes": [10, 20, 30, 40]}, r"boxes\[None\]"),
        ({"boxes": [[30, 20, 10, 40]]}, "is inverted"),
        ({"boxes": [[700, 20, 800, 40]]}, "outside the image of 640 x 480"),
        ({"point_coords": [[10, 500]]}, "outside the image of 640 x 480"),
        ({"boxes": [[1, 2, 3, 4]], "mask_input": np.zeros((1, 1, 64, 64))}, r"\(1, 1, 128, 128\)"),
    ],
)
def test_bad_prompts_are_refused_before_encoding(
    disc_segmenter: Segmenter,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    message: str,
) -> None:
    embedding = disc_segmenter.encode(BLACK)
    with pytest.raises(ValueError, match=message):
        disc_segmenter.predict(embedding, **arguments)

    def encode(*_: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(Segmenter, "_encode", encode)
    with pytest.raises(ValueError, match=message):
        disc_segmenter.segment(BLACK, **arguments)


def test_an_embedding_of_another_bundle_is_refused(disc_segmenter: Segmenter) -> None:
    embedding = dataclasses.replace(disc_segmenter.encode(BLACK), encoder_sha256="ab" * 32)
    with pytest.raises(ValueError, match="made by the image encoder abababababab"):
        disc_segmenter.predict(embedding, boxes=[[1, 2, 3, 4]])


def test_an_image_is_no_embedding(disc_segmenter: Segmenter) -> None:
    with pytest.raises(TypeError, match="embedding must be an Embedding, got ndarray"):
        disc_segmenter.predict(BLACK, boxes=[[1, 2, 3, 4]])  # type: ignore[arg-type]  # the point


def test_a_closed_segmenter_refuses_to_work(disc_bundle: Path) -> None:
    with Segmenter.load(disc_bundle, threads=1) as segmenter:
        embedding = segmenter.encode(BLACK)
    with pytest.raises(RuntimeError, match="this Segmenter is closed"):
        segmenter.encode(BLACK)
    with pytest.raises(RuntimeError, match="this Segmenter is closed"):
        segmenter.predict(embedding, boxes=[[1, 2, 3, 4]])
    segmenter.close()


def test_the_precision_of_the_bundle_may_be_asked_for(disc_bundle: Path) -> None:
    assert Segmenter.load(disc_bundle, precision="fp32", threads=1).precision == "fp32"
    with pytest.raises(BackendError, match="is in fp32, not in int8"):
        Segmenter.load(disc_bundle, precision="int8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"precision": "fp8"},
            "precision must be one of auto, fp32, fp16, int8, int8-cpu, got 'fp8'",
        ),
        ({"backend": "cuda"}, "backend must be one of auto, onnxruntime, .*, tensorrt, got 'cuda'"),
        ({"threads": 0}, "threads must be from 1 to 256, got 0"),
    ],
)
def test_bad_arguments_of_load_are_refused(
    disc_bundle: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Segmenter.load(disc_bundle, **arguments)


def test_a_bundle_without_decoder_is_refused(
    make_bundle: Callable[[list[onnx.GraphProto]], Path], disc_graphs: list[onnx.GraphProto]
) -> None:
    with pytest.raises(BundleError, match="has no graph 'mask_decoder', only: image_encoder"):
        Segmenter.load(make_bundle(disc_graphs[:1]))


def test_a_bundle_of_another_contract_is_refused(
    make_bundle: Callable[[list[onnx.GraphProto]], Path], disc_graphs: list[onnx.GraphProto]
) -> None:
    encoder = disc_graphs[0]
    encoder.output[0].name = encoder.node[-1].output[0] = "features"
    with pytest.raises(BundleError, match="no output image_embeddings float32"):
        Segmenter.load(make_bundle(disc_graphs))


def test_an_encoder_frozen_to_a_size_refuses_other_sizes(
    make_bundle: Callable[[list[onnx.GraphProto]], Path], disc_graphs: list[onnx.GraphProto]
) -> None:
    for axis, size in ((0, 1), (1, 480), (2, 640)):
        disc_graphs[0].input[0].type.tensor_type.shape.dim[axis].dim_value = size
    with Segmenter.load(make_bundle(disc_graphs), threads=1) as segmenter:
        segmenter.encode(BLACK)
        with pytest.raises(ValueError, match=r"\(1, 480, 641\), expected .* \(1, 480, 640\)"):
            segmenter.encode(np.zeros((480, 641), np.uint8))


def test_logits_that_are_not_finite_are_an_error(
    make_bundle: Callable[[list[onnx.GraphProto]], Path], disc_graphs: list[onnx.GraphProto]
) -> None:
    last = disc_graphs[1].node[-1]
    last.CopyFrom(helper.make_node("Div", ["per_prompt", "per_prompt"], ["iou_predictions"]))
    disc_graphs[1].node.pop()
    disc_graphs[1].node.extend(
        [
            helper.make_node("Div", ["per_prompt", "per_prompt"], ["nan"]),
            helper.make_node("Add", ["nan", "ious"], ["iou_predictions"]),
        ]
    )
    with (
        Segmenter.load(make_bundle(disc_graphs), threads=1) as segmenter,
        pytest.raises(BackendError, match="gave NaN or infinite"),
    ):
        segmenter.segment(BLACK, boxes=[[1, 2, 30, 40]])
