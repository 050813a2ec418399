"""Feeds are compared with what a graph takes before they reach an engine."""

import numpy as np
import pytest

from samus_edge.runtime.backends.backend import Tensor, check_feeds
from samus_edge.runtime.bundle.manifest import TensorSpec

INPUTS = (
    TensorSpec("point_coords", "float32", ("N", "P", 2)),
    TensorSpec("point_labels", "float32", ("N", "P")),
)
COORDS = np.zeros((1, 3, 2), np.float32)
LABELS = np.zeros((1, 3), np.float32)


def test_feeds_that_fit_are_accepted() -> None:
    check_feeds("mask_decoder", INPUTS, {"point_coords": COORDS, "point_labels": LABELS})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"point_coords": COORDS}, r"missing point_labels float32 \(N, P\)"),
        (
            {"point_coords": COORDS, "point_labels": LABELS, "boxes": LABELS},
            r"unexpected boxes float32 \(1, 3\)",
        ),
        (
            {"point_coords": COORDS, "point_labels": LABELS.astype(np.int32)},
            r"got point_labels int32 \(1, 3\), expected point_labels float32 \(N, P\)",
        ),
        (
            {"point_coords": COORDS[..., :1], "point_labels": LABELS},
            r"got point_coords float32 \(1, 3, 1\), expected point_coords float32 \(N, P, 2\)",
        ),
    ],
)
def test_feeds_that_do_not_fit_are_named(feeds: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_feeds("mask_decoder", INPUTS, feeds)
    assert "'mask_decoder'" in str(caught.value)
