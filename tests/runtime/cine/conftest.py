"""A real lesion in motion."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samus_edge.benchmarking.synthetic_cine import CineMotion, TrueFrame, synthetic_cine
from samus_edge.runtime import Segmenter
from samus_edge.runtime.cine.lesion_tracker import Box
from samus_edge.runtime.measurement.lesion_measurements import box_around

EXAMPLES = Path(__file__).parents[3] / "examples"
MARKED: Box = (135.0, 88.0, 446.0, 368.0)


@pytest.fixture(scope="session")
def segmenter() -> Any:
    """Of the default bundle, one thread."""
    with Segmenter.load(threads=1) as opened:
        yield opened


@pytest.fixture(scope="session")
def lesion(segmenter: Segmenter) -> tuple[Any, Any]:
    """An example image, half as large, and its lesion by the model itself: (H, W) uint8 and
    bool."""
    image = cv2.imread(str(EXAMPLES / "benign_80.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    small = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8)
    mask = segmenter.segment(small, boxes=[[value / 2 for value in MARKED]]).masks[0, 0]
    return small, mask


@pytest.fixture(scope="session")
def moving(lesion: tuple[Any, Any]) -> list[TrueFrame]:
    """It moves, and stays in view."""
    return list(synthetic_cine(*lesion, CineMotion(frames=24, period=24)))


@pytest.fixture(scope="session")
def hidden(lesion: tuple[Any, Any]) -> list[TrueFrame]:
    """It fades from frame 8 to 16, and comes back."""
    motion = CineMotion(frames=26, period=52, hidden=(8, 16), fade=2)
    return list(synthetic_cine(*lesion, motion))


@pytest.fixture(scope="session")
def box(moving: list[TrueFrame]) -> Box:
    """Around the lesion in the first frame."""
    found = box_around(moving[0].mask)
    assert found is not None
    return found
