"""Draw `examples.jpg`, the picture of the README: `python docs/images/make_examples.py`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

IMAGES_DIR = Path(__file__).resolve().parent
EXAMPLES_DIR = IMAGES_DIR.parents[1] / "examples"
HEIGHT_PX = 520


def main() -> None:
    """Run `samus-edge infer` on each example and put the overlays side by side."""
    prompts: dict[str, list[int]] = json.loads((EXAMPLES_DIR / "prompts.json").read_text())
    tiles = []
    with tempfile.TemporaryDirectory() as folder:
        for name, box in prompts.items():
            overlay = Path(folder) / name
            command = [sys.executable, "-I", "-m", "samus_edge.cli.app", "infer"]
            command += ["--image", str(EXAMPLES_DIR / name), "--box", ",".join(map(str, box))]
            subprocess.run([*command, "--overlay", str(overlay)], check=True)
            tile = cv2.imread(str(overlay))
            assert tile is not None
            width = round(tile.shape[1] * HEIGHT_PX / tile.shape[0])
            tiles.append(cv2.resize(tile, (width, HEIGHT_PX), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(IMAGES_DIR / "examples.jpg"), np.hstack(tiles), [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
