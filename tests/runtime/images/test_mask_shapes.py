"""Masks as outlines and run lengths, against pycocotools and the shoelace formula."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.images.mask_shapes import (
    fill_polygons,
    joined,
    mask_from_rle,
    outlines,
    rle,
)

coco_masks = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
# pycocotools 2.0.11 with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def random_masks() -> list[npt.NDArray[np.bool_]]:
    """Speckle and blobs, with holes, parts that touch at corners, and pixels at every edge."""
    rng = np.random.default_rng(0)
    masks = []
    for index in range(40):
        noise = rng.random(rng.integers(1, 60, 2))
        masks.append((cv2.GaussianBlur(noise, (0, 0), 2) if index % 2 else noise) > 0.5)
    return [*masks, np.zeros((3, 4), np.bool_), np.ones((3, 4), np.bool_)]


def test_run_lengths_are_those_of_pycocotools() -> None:
    for mask in random_masks():
        expected = coco_masks.encode(np.asfortranarray(mask, np.uint8))
        assert rle(mask) == {"size": expected["size"], "counts": expected["counts"].decode()}
        assert np.array_equal(mask_from_rle(rle(mask)["counts"], mask.shape), mask)


def test_outlines_enclose_exactly_the_pixels() -> None:
    for mask in random_masks():
        found = outlines(mask)
        area = 0.0
        for outline in found:
            steps = np.roll(outline, -1, axis=0) - outline
            assert ((steps == 0).any(axis=1)).all()  # along the edges of pixels
            x, y = outline.T
            area += 0.5 * float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())
        assert abs(area) == np.count_nonzero(mask)
        if found:
            path = (joined(found) + 0.5).ravel().tolist()
            filled = coco_masks.decode(coco_masks.frPyObjects([path], *mask.shape))[..., 0]
            assert np.array_equal(filled, mask)


def test_a_pixel_has_the_outline_of_a_unit_square_around_its_centre() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[4, 2] = True
    (outline,) = outlines(mask)
    assert sorted(outline.tolist()) == [[1.5, 3.5], [1.5, 4.5], [2.5, 3.5], [2.5, 4.5]]


@pytest.mark.parametrize("counts", ["", "11", [3, 4], [25, -5], [100]])
def test_run_lengths_of_another_size_are_refused(counts: str | list[int]) -> None:
    with pytest.raises(BadArgumentError, match="add up to 20"):
        mask_from_rle(counts, (4, 5))


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([[0, 0], [1, 1]], "got 2"),
        ([[0, 0], [1e9, 0], [3, 3]], "far outside the image of 5 x 4"),
        ([[0, 0], [np.nan, 0], [3, 3]], "far outside"),
    ],
)
def test_what_is_no_polygon_in_an_image_is_refused(polygon: npt.ArrayLike, message: str) -> None:
    with pytest.raises(BadArgumentError, match=message):
        fill_polygons([np.asarray(polygon, np.float64)], (4, 5))
