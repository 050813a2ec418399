"""Make the small real frames of `tests/assets/frames/` from BUSI's validation subset.

Run it from the checkout: `SAMUS_EDGE_BUSI=/path/to/Dataset_BUSI_with_GT python
tests/assets/make_frames.py`.

Each frame is a window around the lesion, at native resolution or reduced, re-encoded as 8-bit grey
PNG. `frames.json` says for each frame where it is from and where the lesion is in it.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

FRAMES_DIR: Final = Path(__file__).parent / "frames"


@dataclass(frozen=True)
class FrameRecipe:
    """Where a frame comes from and how large it becomes."""

    key: str
    """BUSI class and file stem, such as `benign/benign (1)`."""
    width: int
    """Width of the frame in pixels."""
    height: int
    """Height of the frame in pixels."""
    scale: float
    """Frame pixels per image pixel, in (0, 1]; 1 keeps the native resolution."""

    @property
    def file_name(self) -> str:
        """Name of the frame's file, such as `benign_1_128x128.png` (width x height)."""
        name = self.key.split("/")[1].replace(" (", "_").rstrip(")")
        return f"{name}_{self.width}x{self.height}.png"


# Squares, landscape, portrait, odd sides, long strips, and frames smaller than the model's input.
RECIPES: Final = (
    FrameRecipe("malignant/malignant (152)", 640, 480, 1.0),
    FrameRecipe("benign/benign (117)", 480, 640, 0.95),
    FrameRecipe("benign/benign (1)", 511, 383, 0.92),
    FrameRecipe("benign/benign (379)", 600, 120, 1.0),
    FrameRecipe("benign/benign (331)", 160, 480, 1.0),
    FrameRecipe("malignant/malignant (183)", 384, 384, 0.85),
    FrameRecipe("benign/benign (199)", 400, 300, 0.74),
    FrameRecipe("benign/benign (133)", 300, 342, 1.0),
    FrameRecipe("malignant/malignant (11)", 333, 250, 0.73),
    FrameRecipe("benign/benign (248)", 320, 240, 0.7),
    FrameRecipe("malignant/malignant (36)", 256, 256, 0.53),
    FrameRecipe("benign/benign (31)", 255, 257, 0.57),
    FrameRecipe("malignant/malignant (73)", 257, 255, 0.55),
    FrameRecipe("malignant/malignant (171)", 271, 149, 0.45),
    FrameRecipe("malignant/malignant (71)", 199, 225, 0.39),
    FrameRecipe("benign/benign (165)", 160, 120, 0.3),
    FrameRecipe("benign/benign (188)", 128, 128, 0.25),
    FrameRecipe("malignant/malignant (47)", 101, 77, 0.19),
    FrameRecipe("benign/benign (341)", 64, 64, 0.12),
    FrameRecipe("malignant/malignant (110)", 31, 47, 0.11),
)


@dataclass(frozen=True)
class Frame:
    """One frame and the lesion in it."""

    image: npt.NDArray[np.uint8]
    """(H, W), uint8."""
    box: list[float]
    """Lesion, XYXY in frame pixels, pixel centres at integers."""


def window_start(centre: float, length: int, limit: int) -> int:
    """First pixel of a window around `centre`, moved so that it stays within `limit` pixels."""
    return max(0, min(round(centre - length / 2), limit - length))


def make_frame(dataset_dir: Path, recipe: FrameRecipe) -> Frame:
    """Cut and reduce one image of the dataset.

    Args:
        dataset_dir: the folder with `benign/`, `malignant/` and `normal/`.
        recipe: what to make.

    Returns:
        The frame, (recipe.height, recipe.width), uint8, with the box of its first lesion.

    Raises:
        ValueError: if the image is missing, has colours, or is smaller than the window.
    """
    image_path = dataset_dir / f"{recipe.key}.png"
    image = cv2.imread(str(image_path), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(dataset_dir / f"{recipe.key}_mask.png"), cv2.IMREAD_GRAYSCALE)
    if image is None or mask is None:
        raise ValueError(f"cannot read {image_path} or its mask. Is SAMUS_EDGE_BUSI right?")
    if image.ndim != 2:
        raise ValueError(f"{image_path} has shape {image.shape}: choose an image stored as grey.")

    window_w, window_h = round(recipe.width / recipe.scale), round(recipe.height / recipe.scale)
    if window_h > image.shape[0] or window_w > image.shape[1]:
        raise ValueError(
            f"{image_path} is {image.shape[1]}x{image.shape[0]}, smaller than the window "
            f"{window_w}x{window_h}: raise the scale {recipe.scale}."
        )
    rows, columns = np.nonzero(mask > 127)
    left = window_start((columns.min() + columns.max()) / 2, window_w, image.shape[1])
    top = window_start((rows.min() + rows.max()) / 2, window_h, image.shape[0])
    window = image[top : top + window_h, left : left + window_w]
    if recipe.scale < 1:
        window = cv2.resize(
            window, (recipe.width, recipe.height), interpolation=cv2.INTER_AREA
        )  # (height, width)

    # Half-pixel rule: pixel edges, not centres, scale with the image.
    corners = np.array(
        [columns.min() - left, rows.min() - top, columns.max() - left, rows.max() - top]
    )
    ratio = np.array([recipe.width / window_w, recipe.height / window_h] * 2)
    box = (corners + 0.5) * ratio - 0.5
    limits = np.array([recipe.width - 1, recipe.height - 1] * 2)
    return Frame(
        image=np.ascontiguousarray(window, dtype=np.uint8),
        box=[round(float(value), 1) for value in np.clip(box, 0, limits)],
    )


def main() -> int:
    """Write all frames and `frames.json`; returns the exit code."""
    if "SAMUS_EDGE_BUSI" not in os.environ:
        print("Set SAMUS_EDGE_BUSI to the folder Dataset_BUSI_with_GT.", file=sys.stderr)
        return 2
    dataset_dir = Path(os.environ["SAMUS_EDGE_BUSI"])
    FRAMES_DIR.mkdir(exist_ok=True)
    records = []
    for recipe in RECIPES:
        frame = make_frame(dataset_dir, recipe)
        cv2.imwrite(
            str(FRAMES_DIR / recipe.file_name), frame.image, [cv2.IMWRITE_PNG_COMPRESSION, 9]
        )
        records.append({"file": recipe.file_name, "source": recipe.key, "box": frame.box})
    lines = ",\n  ".join(json.dumps(record) for record in records)
    (FRAMES_DIR / "frames.json").write_text(f"[\n  {lines}\n]\n", encoding="utf-8")
    total = sum(path.stat().st_size for path in FRAMES_DIR.iterdir())
    print(f"{len(records)} frames, {total / 1e6:.2f} MB, in {FRAMES_DIR}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
