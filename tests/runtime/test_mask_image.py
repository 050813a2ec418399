"""Masks as one image."""

import numpy as np
import pytest

from samus_edge.runtime.mask_image import mask_image


def test_one_mask_is_black_and_white() -> None:
    np.testing.assert_array_equal(mask_image(np.array([[[True, False]]])), [[255, 0]])


def test_several_masks_are_labels_and_the_later_lies_on_top() -> None:
    masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], np.bool_)
    image = mask_image(masks)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, [[1, 2, 2, 0]])


def test_more_masks_than_labels_are_refused() -> None:
    assert mask_image(np.ones((255, 1, 1), np.bool_)).item() == 255
    with pytest.raises(ValueError, match="at most 255 masks, got 256"):
        mask_image(np.ones((256, 1, 1), np.bool_))
