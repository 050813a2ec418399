"""Segment an archive that outgrows a machine with Ray Data: one segmenter in each actor.

    pip install 'ray[data]'
    python examples/ray_batch.py examples/prompts.json masks

Each actor loads the model once and takes batches of images; Ray spreads the actors over the
machines of a cluster (`ray.init(address="auto")`), starts lost ones again and writes what comes
back, as Parquet files. The images have to be where every machine can read them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import ray

from samus_edge.runtime import Segmenter, read_image


class SegmentImages:
    """An actor: a segmenter, and what it makes of a batch."""

    def __init__(self) -> None:
        self.segmenter = Segmenter.load(threads=1)

    def __del__(self) -> None:
        self.segmenter.close()  # before the process ends, which Ray and ONNX Runtime do not survive

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add to paths and boxes the mask, as a PNG file, its area and its predicted IoU."""
        pngs, areas, scores = [], [], []
        for path, box in zip(batch["path"], batch["box"], strict=True):
            prediction = self.segmenter.segment(read_image(path), boxes=[list(box)])
            mask = prediction.masks[0, 0]
            pngs.append(cv2.imencode(".png", 255 * mask.astype(np.uint8))[1].tobytes())
            areas.append(int(np.count_nonzero(mask)))
            scores.append(float(prediction.iou_predictions[0, 0]))
        return {**batch, "mask_png": pngs, "area_px": areas, "predicted_iou": scores}


def main(prompts: Path, folder: Path, actors: int = 2) -> None:
    """Segment every image of a file of boxes into a folder of Parquet files."""
    boxes = json.loads(prompts.read_text(encoding="utf-8"))
    rows = [{"path": str(prompts.parent / name), "box": box} for name, box in boxes.items()]
    images = ray.data.from_items(rows)
    results = images.map_batches(SegmentImages, batch_size=16, concurrency=actors, num_cpus=1)
    results.write_parquet(str(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), *map(int, sys.argv[3:]))
