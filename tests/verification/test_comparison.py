"""The graphs of a precision, run as the runtime runs them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samus_edge.data.prompt_protocol import Prompt
from samus_edge.errors import BackendError
from samus_edge.runtime import Segmenter
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.verification.comparison import PrecisionGraphs, compare_frame

BOXES = np.array([[10, 5, 60, 40], [20, 20, 90, 70]], np.float32)  # of a frame of 100 x 80
PROMPTS = [Prompt(box=box) for box in BOXES]


def ones(*shape: int) -> Any:
    """Float32 embeddings."""
    return np.ones(shape, np.float32)


def test_masks_are_those_of_the_runtime(
    disc_precisions: Callable[..., Path], make_precision: Any
) -> None:
    folder = disc_precisions({"fp16": make_precision(logit_shift=-3)})
    frame = np.full((80, 100), 51, np.uint8)
    graphs = PrecisionGraphs(Bundle.open(folder), "fp16", OnnxRuntimeBackend(1))
    embeddings = graphs.encode(frame)
    decoded = graphs.decode(embeddings, (80, 100), PROMPTS)
    with Segmenter.load(folder, precision="fp16", threads=1) as segmenter:
        embedding = segmenter.encode(frame)
        one = segmenter.decode(embedding, boxes=BOXES)
        three = segmenter.decode(embedding, boxes=BOXES, multimask_output=True)
    np.testing.assert_array_equal(embeddings, embedding.image_embeddings)
    np.testing.assert_array_equal(decoded.low_res_masks[:, :1], one.low_res_logits)
    np.testing.assert_array_equal(decoded.low_res_masks[:, 1:], three.low_res_logits)
    np.testing.assert_array_equal(decoded.iou_predictions[:, 1:], three.iou_predictions)
    np.testing.assert_array_equal(graphs.masks(decoded, (80, 100)), one.masks[:, 0])
    assert decoded.is_finite.tolist() == [True, True]


def test_values_that_are_not_finite_are_given_back(
    disc_precisions: Callable[..., Path], make_precision: Any
) -> None:
    folder = disc_precisions({"fp16": make_precision(logit_shift=math.nan)})
    graphs = PrecisionGraphs(Bundle.open(folder), "fp16", OnnxRuntimeBackend(1))
    frame = np.full((80, 100), 51, np.uint8)
    decoded = graphs.decode(graphs.encode(frame), (80, 100), PROMPTS)
    assert np.isnan(decoded.low_res_masks).all()
    assert decoded.is_finite.tolist() == [False, False]
    assert not graphs.masks(decoded, (80, 100)).any()


def test_embeddings_are_compared_by_direction_and_size() -> None:
    # (1, 0) and (1, 1): 45 degrees.
    first = np.array([1, 0], np.float32).reshape(1, 2, 1, 1)
    compared = compare_frame(ones(1, 2, 1, 1), first)
    assert compared.cosine == pytest.approx(math.sqrt(0.5))
    assert (compared.error, compared.largest, compared.is_finite) == (1.0, 1.0, True)
    nothing = np.zeros_like(first)
    assert compare_frame(nothing, nothing).cosine == 1.0
    assert compare_frame(nothing, first).cosine == 0.0
    wrong = compare_frame(np.array([math.inf, math.nan], np.float32).reshape(first.shape), first)
    assert (wrong.is_finite, wrong.cosine, wrong.error, wrong.largest) == (False, None, None, None)
    with pytest.raises(BackendError, match=r"\(1, 3, 1, 1\), .* \(1, 2, 1, 1\)"):
        compare_frame(ones(1, 3, 1, 1), ones(1, 2, 1, 1))
    # The largest numbers differ by a finite one.
    largest = float(np.finfo(np.float32).max)
    extreme = np.full((1, 1, 1, 1), largest, np.float32)
    assert compare_frame(extreme, -extreme).error == 2 * largest
