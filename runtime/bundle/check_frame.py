"""Real frames with prompts that are installed with the runtime, to check engines on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).with_name("check_frames")


@dataclass(frozen=True, eq=False)
class CheckFrame:
    """A breast ultrasound frame with a lesion.

    Attributes:
        name: Name of its file.
        image: (H, W), uint8, grey.
        box: (4,), float32, XYXY around the lesion, pixels.
    """

    name: str
    image: npt.NDArray[np.uint8]
    box: npt.NDArray[np.float32]

    @property
    def point(self) -> npt.NDArray[np.float32]:
        """(2,), float32: the centre of the box."""
        centre: npt.NDArray[np.float32] = self.box.reshape(2, 2).mean(axis=0)
        return centre


def load_check_frames(frame_hw: tuple[int, int] | None = None) -> tuple[CheckFrame, ...]:
    """The eight frames, always the same: from BUSI's training part, at most 320 pixels wide.

    Args:
        frame_hw: (H, W) that they are resized to, for graphs that take one size; None for their
            own.
    """
    # Here, so that importing the runtime does not load OpenCV.
    import cv2

    frames: list[CheckFrame] = []
    for entry in json.loads((FOLDER / "frames.json").read_text()):
        content = np.frombuffer((FOLDER / entry["file"]).read_bytes(), np.uint8)
        image = np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)  # (H, W)
        box = np.array(entry["box"], np.float32)
        if frame_hw is not None:
            height, width = image.shape
            box *= np.tile([frame_hw[1] / width, frame_hw[0] / height], 2).astype(np.float32)
            image = np.asarray(cv2.resize(image, frame_hw[::-1]), np.uint8)
        frames.append(CheckFrame(entry["file"], image, box))
    return tuple(frames)
