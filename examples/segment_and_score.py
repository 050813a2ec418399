"""Segment the example images with the default bundle and compare with the radiologists' masks.

Run it from anywhere: `python examples/segment_and_score.py`. It needs `pip install .` only.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.runtime import Segmenter

EXAMPLES_DIR = Path(__file__).resolve().parent


def dice(mask: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient 2|A and B| / (|A| + |B|) of two non-empty masks.

    Args:
        mask: (H, W), bool.
        target: (H, W), bool.

    Returns:
        A number in [0, 1]; 1 means that the masks are the same.
    """
    return 2.0 * float(np.count_nonzero(mask & target)) / float(mask.sum() + target.sum())


def read_grey(path: Path) -> npt.NDArray[np.uint8]:
    """Read a grey image file, (H, W), uint8."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise FileNotFoundError(f"cannot read {path}. Is the checkout complete?")
    return image.astype(np.uint8)


def main() -> None:
    """Print one line per example image."""
    prompts: dict[str, list[float]] = json.loads((EXAMPLES_DIR / "prompts.json").read_text())
    print(f"{'image':20} {'box':20} {'Dice':>6} {'predicted IoU':>14}")
    with Segmenter.load() as segmenter:
        for name, box in prompts.items():
            image = read_grey(EXAMPLES_DIR / name)
            target = read_grey(EXAMPLES_DIR / name.replace(".png", "_mask.png")) > 127

            prediction = segmenter.segment(image, boxes=[box])
            mask = prediction.masks[0, 0]  # (H, W)

            box_text = ",".join(str(value) for value in box)
            iou = float(prediction.iou_predictions[0, 0])
            print(f"{name:20} {box_text:20} {dice(mask, target):6.3f} {iou:14.3f}")


if __name__ == "__main__":
    main()
