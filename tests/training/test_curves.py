"""Curves of a training as a picture."""

import cv2
import numpy as np

from samus_edge.training.curves import draw_curves
from samus_edge.training.history import EpochRecord


def pixels(png: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.uint8)


def record(epoch: int, loss: float, box: float | None = 0.9) -> EpochRecord:
    return EpochRecord(epoch, loss, loss + 0.1, box, 0.8, 1e-4 / epoch)


def test_curves_are_a_picture_of_the_history() -> None:
    short = pixels(draw_curves([record(1, 1.0)]))
    long = pixels(draw_curves([record(epoch, 1.0 / epoch) for epoch in range(1, 9)]))
    assert short.shape == long.shape and short.shape[1] > 2 * short.shape[0]
    assert (short != long).any()
    coloured = np.ptp(long.astype(int), axis=2) > 60
    thirds = np.array_split(coloured, 3, axis=1)
    assert all(third.sum() > 200 for third in thirds)  # a curve in each panel


def test_a_kind_of_prompt_that_was_not_scored_has_no_curve() -> None:
    with_box = pixels(draw_curves([record(epoch, 1.0 / epoch) for epoch in range(1, 4)]))
    without = pixels(draw_curves([record(epoch, 1.0 / epoch, None) for epoch in range(1, 4)]))
    assert (with_box != without).any()


def test_nothing_of_matplotlib_is_left_behind() -> None:
    """pyplot keeps its figures for good; a training draws one each epoch."""
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from samus_edge.training.curves import draw_curves\n"
        "from samus_edge.training.history import EpochRecord\n"
        "draw_curves([EpochRecord(1, 1.0, 1.0, 0.5, None, 1e-3)])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
