"""A predictor whose masks are known beforehand."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest


@dataclass(frozen=True)
class FilledMasks:
    """What the predictor below returns."""

    masks: npt.NDArray[np.bool_]
    iou_predictions: npt.NDArray[np.float32]


@dataclass
class BoxFiller:
    """Fills boxes, rounding their corners; finds nothing at points. Records what it is asked."""

    encoded: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    boxes: list[npt.NDArray[np.float32]] = field(default_factory=list)
    points: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def encode(self, image: npt.NDArray[np.uint8]) -> tuple[int, ...]:
        """Remember the image; its size is all that is needed."""
        self.encoded.append(image)
        return image.shape

    def predict(
        self,
        embedding: tuple[int, ...],
        *,
        boxes: npt.NDArray[np.float32] | None = None,
        point_coords: npt.NDArray[np.float32] | None = None,
        point_labels: npt.NDArray[np.int32] | None = None,
    ) -> FilledMasks:
        """Fill each box, corners included, or return an empty mask for each point."""
        if boxes is None:
            assert point_coords is not None and point_labels is not None
            assert point_labels.shape == point_coords.shape[:2] and (point_labels == 1).all()
            self.points.append(point_coords)
            masks = np.zeros((len(point_coords), 1, *embedding), dtype=np.bool_)
        else:
            self.boxes.append(boxes)
            masks = np.zeros((len(boxes), 1, *embedding), dtype=np.bool_)
            for mask, (x1, y1, x2, y2) in zip(masks, np.rint(boxes).astype(int), strict=True):
                mask[0, y1 : y2 + 1, x1 : x2 + 1] = True
        return FilledMasks(masks, np.full((len(masks), 1), 0.75, dtype=np.float32))


@pytest.fixture
def box_filler() -> BoxFiller:
    """A fresh predictor that fills boxes and finds nothing at points."""
    return BoxFiller()
