"""The bundle that is shipped with the package."""

from collections.abc import Iterator
from typing import Any

import pytest

from samus_edge.evaluation.metrics import dice
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle, default_bundle_path
from tests.conftest import EXAMPLE_BOXES, read_example

MAX_BYTES = 24e6
MAX_LOGIT_ERROR = 1e-3
MIN_MASK_IOU = 0.999
MIN_PARITY_FRAMES = 20
MIN_DICE = {"box_5%": 0.905, "centre_point": 0.85}
"""Mean over the lesions of BUSI's test subset that the default bundle has to reach."""
MIN_EXAMPLE_DICE = 0.8
"""Below this a mask is visibly wrong on the three examples."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The default bundle; the package is incomplete without it, so nothing is skipped."""
    return Bundle.open(None)


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    """A segmenter on the default bundle."""
    with Segmenter.load(threads=1) as opened:
        yield opened


def test_is_small_enough_and_holds_nothing_else(bundle: Bundle) -> None:
    files = {path.name: path.stat().st_size for path in default_bundle_path().iterdir()}
    graphs = {"image_encoder.onnx", "mask_decoder.onnx", "lesion_proposer.onnx"}
    assert files.keys() == graphs | {"manifest.json"}
    assert sum(files.values()) <= MAX_BYTES


def test_its_parity_was_measured_within_the_gates(bundle: Bundle) -> None:
    parity: Any = bundle.manifest.parity
    assert parity["frames"] >= MIN_PARITY_FRAMES
    assert len({tuple(size) for size in parity["frame_sizes"]}) >= MIN_PARITY_FRAMES
    assert 0 < parity["max_abs_logit_error"] <= MAX_LOGIT_ERROR
    assert parity["min_mask_iou"] >= MIN_MASK_IOU


@pytest.mark.parametrize("prompt", MIN_DICE)
def test_its_accuracy_was_measured_on_the_test_subset(bundle: Bundle, prompt: str) -> None:
    accuracy: Any = bundle.manifest.accuracy
    assert accuracy["subset"] == "test"
    assert accuracy["bundle"] == bundle.manifest.name
    measured = accuracy["results"][prompt]["all"]
    assert measured["lesions"] >= 129  # one at least for each image
    low, high = measured["dice_95_interval"]
    assert low < measured["dice"] < high
    assert measured["dice"] >= MIN_DICE[prompt]


def test_says_what_it_is_and_is_not(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.model, manifest.arch) == ("samus_hf", "tiny")
    assert manifest.weights_sha256.strip("0")
    assert manifest.licence == "Apache-2.0"
    assert any("Al-Dhabyani" in credit for credit in manifest.credits)
    assert any("LiteMedSAM" in credit for credit in manifest.credits)
    assert any("Not a medical device" in limit for limit in manifest.limits)


@pytest.mark.parametrize("name", EXAMPLE_BOXES)
def test_segments_the_examples(name: str, segmenter: Segmenter) -> None:
    target = read_example(name.replace(".png", "_mask.png")) > 127
    prediction = segmenter.segment(read_example(name), boxes=[EXAMPLE_BOXES[name]])
    assert dice(prediction.masks[0, 0], target) >= MIN_EXAMPLE_DICE
