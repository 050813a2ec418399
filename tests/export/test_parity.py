"""The shipped files against torch."""

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from samus_edge.errors import ExportMismatchError
from samus_edge.export.parity import ParityReport, measure_parity
from samus_edge.modeling import SamusHF
from tests.conftest import AssetFrame
from tests.export.conftest import Array, RunGraph

MAX_LOGIT_ERROR = 1e-3
"""The gate of every bundle, for float32 through encoder and decoder."""
MAX_EMBEDDING_ERROR = 1e-3
"""Float32 through the encoder; embeddings reach about 5."""
MIN_MASK_IOU = 0.999
EXACT = 1e-4
"""Float32 of the same graph for other batch sizes, which are summed in another order."""


def decoder_feeds(
    embeddings: Array,
    coords: npt.ArrayLike,
    labels: npt.ArrayLike,
    mask_input: Array | None = None,
) -> dict[str, Array]:
    """Inputs of the mask decoder."""
    labels = np.asarray(labels, np.float32)
    has_mask = np.full((len(labels), 1), mask_input is not None, np.float32)
    if mask_input is None:
        mask_input = np.zeros((len(labels), 1, 128, 128), np.float32)
    return {
        "image_embeddings": embeddings,
        "point_coords": np.asarray(coords, np.float32),
        "point_labels": labels,
        "mask_input": mask_input,
        "has_mask_input": has_mask,
    }


def torch_decoder(model: SamusHF, feeds: dict[str, Array]) -> dict[str, Array]:
    """The same by torch."""
    with torch.no_grad():
        masks, ious = model.decode(*(torch.from_numpy(feed) for feed in feeds.values()))
    return {"low_res_masks": masks.numpy(), "iou_predictions": ious.numpy()}


def assert_close(found: dict[str, Array], expected: dict[str, Array], tolerance: float) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance, err_msg=name)


def test_gates_hold_on_real_frames_of_different_shapes(
    random_bundle: Path, shipped_random_model: SamusHF, asset_frames: list[AssetFrame]
) -> None:
    frames = [frame.image for frame in asset_frames[::10]]
    report = measure_parity(shipped_random_model, random_bundle, frames, seed=3)
    assert report.frames == len(frames) == 2
    assert report.prompts == 6
    assert report.frame_sizes == tuple(frame.shape for frame in frames)
    assert report.max_abs_embedding_error <= MAX_EMBEDDING_ERROR
    assert 0 < report.max_abs_logit_error <= MAX_LOGIT_ERROR
    assert report.min_mask_iou >= MIN_MASK_IOU
    report.check()


def test_a_difference_is_measured(
    random_bundle: Path, random_model: SamusHF, asset_frames: list[AssetFrame]
) -> None:
    other = copy.deepcopy(random_model)
    with torch.no_grad():
        other.get_parameter("image_encoder.skip1.weight").add_(0.25)
    report = measure_parity(other, random_bundle, [asset_frames[-1].image])
    assert report.max_abs_logit_error > MAX_LOGIT_ERROR
    with pytest.raises(ExportMismatchError, match="max logit error"):
        report.check()


@pytest.mark.parametrize(
    ("logit_error", "mask_iou", "message"),
    [
        (0.002, 1.0, r"max logit error 2\.00e-03, allowed 1e-03"),
        (0.0, 0.99, r"worst mask IoU 0\.99000, required 0\.999"),
        (float("nan"), float("nan"), r"max logit error nan.*worst mask IoU nan"),
    ],
)
def test_a_gate_that_does_not_hold_is_named_with_its_number(
    logit_error: float, mask_iou: float, message: str
) -> None:
    report = ParityReport(1, 3, 0.0, logit_error, mask_iou, ((4, 5),))
    with pytest.raises(ExportMismatchError, match=message):
        report.check()


def test_frames_of_a_batch_are_encoded_as_alone(run_image_encoder: RunGraph) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 75, 50), dtype=np.uint8)
    frames[1] //= 8
    together = run_image_encoder({"image": frames})["image_embeddings"]
    assert together.shape == (3, 256, 32, 32)
    for index in range(3):
        alone = run_image_encoder({"image": frames[index : index + 1]})["image_embeddings"]
        np.testing.assert_allclose(together[index], alone[0], rtol=0, atol=EXACT)


@pytest.mark.parametrize("hw", [(1, 1), (1, 300), (257, 2), (600, 801)])
def test_frames_of_any_size_are_encoded_as_by_torch(
    hw: tuple[int, int], run_image_encoder: RunGraph, shipped_random_model: SamusHF
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, *hw), dtype=np.uint8)
    found = run_image_encoder({"image": frame})["image_embeddings"]
    with torch.no_grad():
        expected = shipped_random_model.encode_frames(torch.from_numpy(frame)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=MAX_EMBEDDING_ERROR)


@pytest.mark.parametrize(
    ("coords", "labels"),
    [
        ([[[30, 40], [200, 180]]], [[2, 3]]),
        ([[[30, 40], [0, 0]]], [[1, -1]]),
        ([[[30, 40], [200, 180], [100, 90], [20.5, 250]]], [[2, 3, 1, 0]]),
        ([[[30, 40], [99, 90], [0, 0]], [[2, 4], [6, 8], [0, 0]]], [[1, 0, -1], [1, 1, -1]]),
        (np.linspace(0, 255, 40).reshape(10, 2, 2), [[2, 3]] * 10),
    ],
    ids=["box", "point", "box and points", "two rows of points", "ten boxes"],
)
def test_prompts_are_decoded_as_by_torch(
    coords: npt.ArrayLike,
    labels: npt.ArrayLike,
    embeddings: Array,
    run_mask_decoder: RunGraph,
    shipped_random_model: SamusHF,
) -> None:
    feeds = decoder_feeds(embeddings, coords, labels)
    expected = torch_decoder(shipped_random_model, feeds)
    assert_close(run_mask_decoder(feeds), expected, MAX_LOGIT_ERROR)


def test_several_prompts_in_one_call_are_decoded_as_alone(
    embeddings: Array, run_mask_decoder: RunGraph
) -> None:
    coords = np.random.default_rng(0).uniform(0, 255, (4, 3, 2))
    labels = np.array([[2, 3, 1], [2, 3, 0], [1, 0, -1], [0, 1, 1]])
    together = run_mask_decoder(decoder_feeds(embeddings, coords, labels))
    assert together["low_res_masks"].shape == (4, 4, 128, 128)
    for row in range(4):
        alone = run_mask_decoder(
            decoder_feeds(embeddings, coords[row : row + 1], labels[row : row + 1])
        )
        expected = {name: values[row : row + 1] for name, values in together.items()}
        assert_close(alone, expected, EXACT)
    # prompts differ, so their masks do
    assert np.abs(together["low_res_masks"][0] - together["low_res_masks"][1]).max() > 0.01


def test_a_mask_input_matters_only_where_it_is_said_to(
    embeddings: Array, run_mask_decoder: RunGraph, shipped_random_model: SamusHF
) -> None:
    coords, labels = [[[30, 40], [200, 180]]] * 2, [[2, 3]] * 2
    masks = np.random.default_rng(0).normal(size=(2, 1, 128, 128)).astype(np.float32) * 5
    without = run_mask_decoder(decoder_feeds(embeddings, coords, labels))
    feeds = decoder_feeds(embeddings, coords, labels, masks)
    feeds["has_mask_input"] = np.array([[1], [0]], np.float32)
    found = run_mask_decoder(feeds)
    assert_close(found, torch_decoder(shipped_random_model, feeds), MAX_LOGIT_ERROR)
    logits = found["low_res_masks"]
    assert np.abs(logits[0] - without["low_res_masks"][0]).max() > 0.01
    np.testing.assert_allclose(logits[1], without["low_res_masks"][1], rtol=0, atol=EXACT)
