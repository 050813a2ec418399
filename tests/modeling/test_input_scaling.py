"""Scaling of frames against OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from samus_edge.modeling.input_scaling import InputScaling

TOLERANCE = 1e-5
"""Of [0, 1]; OpenCV's float32 interpolation weights differ in the last digits."""


@pytest.mark.parametrize("hw", [(1, 1), (1, 300), (37, 1), (64, 64), (471, 562), (300, 801)])
def test_agrees_with_opencv_on_float32(hw: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *hw), dtype=np.uint8)
    scaled = InputScaling(64)(torch.from_numpy(frames))
    assert scaled.shape == (2, 1, 64, 64)
    for frame, image in zip(frames, scaled.numpy(), strict=True):
        expected = cv2.resize(frame.astype(np.float32), (64, 64), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(image[0], expected / 255.0, rtol=0, atol=TOLERANCE)


def test_integers_and_numbers_are_scaled_alike() -> None:
    frames = torch.randint(0, 256, (1, 20, 30), dtype=torch.uint8)
    scaling = InputScaling(16)
    assert torch.equal(scaling(frames), scaling(frames.float()))
