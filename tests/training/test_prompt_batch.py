"""Batches of prompts have the form that the runtime sends."""

import numpy as np
import pytest
import torch

from samus_edge.data.training_samples import TrainingSample
from samus_edge.runtime.prompts import check_prompts, decoder_prompts
from samus_edge.training.prompt_batch import box_prompts, click_prompts, corrected_prompts

BOXES = [[[10.0, 20.0], [100.0, 90.0]], [[30.0, 40.0], [50.0, 200.0]]]
CLICKS = [[[60.0, 50.0]], [[40.0, 120.0]]]


@pytest.fixture
def batch() -> TrainingSample:
    """Two lesions, which fill their boxes."""
    mask = torch.zeros(2, 1, 256, 256)
    mask[0, 0, 20:91, 10:101] = 1
    mask[1, 0, 40:201, 30:51] = 1
    image = torch.zeros(2, 1, 256, 256)
    return TrainingSample(image, image, mask, torch.tensor(BOXES), torch.tensor(CLICKS))


def test_prompts_are_those_that_the_runtime_packs(batch: TrainingSample) -> None:
    boxes, clicks = np.array(BOXES, np.float32), np.array(CLICKS, np.float32)
    size = (256, 256)  # where the original frame is the model frame
    asked = {
        "box": check_prompts(size, boxes=boxes.reshape(2, 4)),
        "click": check_prompts(size, point_coords=clicks),
        "both": check_prompts(size, boxes=boxes.reshape(2, 4), point_coords=clicks),
    }
    made = {
        "box": box_prompts(batch, with_click=False),
        "click": click_prompts(batch),
        "both": box_prompts(batch, with_click=True),
    }
    for kind, prompts in asked.items():
        (packed,) = decoder_prompts(prompts, 256)
        np.testing.assert_array_equal(made[kind].point_labels.numpy(), packed.point_labels)
        np.testing.assert_allclose(made[kind].point_coords.numpy(), packed.point_coords, atol=1e-4)
        assert made[kind].mask_input.shape == (2, 1, 128, 128)
        assert not made[kind].has_mask_input.any()


def test_corrections_join_the_prompts_with_the_previous_mask(batch: TrainingSample) -> None:
    logits = torch.full((2, 1, 128, 128), -5.0, requires_grad=True)
    with torch.no_grad():
        logits[1] = 5.0  # nothing is found in the first image, everything in the second
    prompts = box_prompts(batch, with_click=False)
    corrected = corrected_prompts(prompts, logits, batch.mask, np.random.default_rng(0))
    assert corrected.point_labels.tolist() == [[1.0, 2.0, 3.0], [0.0, 2.0, 3.0]]
    assert torch.equal(corrected.point_coords[:, 1:], prompts.point_coords)
    for index, label in ((0, 1.0), (1, 0.0)):
        x, y = corrected.point_coords[index, 0].int().tolist()
        assert batch.mask[index, 0, y, x] == label
    assert torch.equal(corrected.mask_input, logits)
    assert not corrected.mask_input.requires_grad
    assert corrected.has_mask_input.tolist() == [[1.0], [1.0]]
