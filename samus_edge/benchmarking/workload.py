"""What is timed: a frame, and prompts on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_contract import MASK_DECODER, mask_input_hw
from samus_edge.runtime.mask_decoder_feeds import mask_decoder_feeds
from samus_edge.runtime.prompts import check_prompts, decoder_prompts

__all__ = ["Workload"]

_BOX = (0.25, 0.25, 0.75, 0.75)  # of the frame's sides


@dataclass(frozen=True, eq=False)
class Workload:
    """What every subject computes.

    Attributes:
        frame: (H, W), uint8, grey.
        box: XYXY, pixels of the frame.
        batches: numbers of frames that the image encoder takes in one run.
        prompts: numbers of boxes that the mask decoder takes in one run.
    """

    frame: npt.NDArray[np.uint8]
    box: tuple[float, float, float, float]
    batches: tuple[int, ...] = (1,)
    prompts: tuple[int, ...] = (1,)

    @staticmethod
    def of(
        frame: npt.NDArray[np.uint8],
        batches: tuple[int, ...] = (1,),
        prompts: tuple[int, ...] = (1,),
    ) -> "Workload":
        """With a box around the middle of the frame."""
        height, width = frame.shape
        x1, y1, x2, y2 = _BOX
        return Workload(frame, (x1 * width, y1 * height, x2 * width, y2 * height), batches, prompts)

    @property
    def original_hw(self) -> tuple[int, int]:
        """(H, W) of the frame, pixels."""
        height, width = self.frame.shape
        return height, width

    def frames(self, count: int) -> npt.NDArray[np.uint8]:
        """(count, H, W): the frame, turned a little further each time, so that none is like another."""
        return np.stack([np.roll(self.frame, index, axis=1) for index in range(count)])

    def boxes(self, count: int) -> npt.NDArray[np.float32]:
        """(count, 4): the box, moved by a pixel each time."""
        x1, y1, x2, y2 = self.box
        shift = np.arange(count, dtype=np.float32)[:, None] % 8
        return np.asarray([[x1, y1, x2, y2]], np.float32) + shift

    def decoder_feeds(self, bundle: Bundle, embeddings: Any, count: int) -> Mapping[str, Any]:
        """What one run of the mask decoder graph is fed.

        Args:
            bundle: whose graph it is.
            embeddings: of the frame, of the host or of the device that decodes.
            count: of boxes.
        """
        hw = mask_input_hw(bundle.graph_record(MASK_DECODER))
        prompts = check_prompts(self.original_hw, boxes=self.boxes(count), mask_input_hw=hw)
        (group,) = decoder_prompts(prompts, bundle.manifest.prompts.size)
        return mask_decoder_feeds(embeddings, group, None, hw)
