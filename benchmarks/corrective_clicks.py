"""What corrective clicks do: Dice after each, and whether the clicked pixel follows.

Run it in the development environment: `python benchmarks/corrective_clicks.py --data BUSI --split
split.json`. Writes `benchmarks/results/corrective_clicks.json`.

A box is up to 20 % off on each side, so that there is something to correct. Each click is in the
middle of the largest error, on the lesion or beside it, as in the literature. Three ways to use
them: all clicks at once beside the box; each click refines the mask before it (its logits go in as
well); and `predict_with_clicks`, which also sees to it that the clicked place follows, and is what
the service and its page do.
"""

from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from samus_edge.benchmarking.bench_run import write_results
from samus_edge.data.case import read_image, read_instances, select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.data.splitting import load_split
from samus_edge.evaluation.metrics import dice
from samus_edge.runtime import Segmenter
from samus_edge.runtime.segmenter import predict_with_clicks

RESULTS = Path(__file__).resolve().parent / "results"
JITTER = 0.2
CLICKS = 3
WAYS = ("at once", "each refines", "predict_with_clicks")
Mask = npt.NDArray[np.bool_]


def depth(region: Mask) -> npt.NDArray[np.float32]:
    """Of each pixel, how far it is from the region's border."""
    padded = np.pad(region, 1).astype(np.uint8)
    found = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.asarray(found, np.float32)


def next_click(mask: Mask, truth: Mask) -> tuple[list[int], int]:
    """In the middle of the largest error: (x, y) and 1 on the lesion, 0 beside it."""
    missing, wrong = depth(truth & ~mask), depth(mask & ~truth)
    label = int(missing.max() >= wrong.max())
    chosen = missing if label else wrong
    row, column = np.unravel_index(int(chosen.argmax()), chosen.shape)
    return [int(column), int(row)], label


def command(
    data: Annotated[Path, typer.Option(help="Folder of BUSI.")],
    split: Annotated[Path, typer.Option(help="JSON file with its subsets.")],
    subset: Annotated[str, typer.Option(help="Part of it.")] = "test",
    seed: Annotated[int, typer.Option(help="Of the boxes.")] = 0,
    output: Annotated[Path, typer.Option(help="The result file.")] = (
        RESULTS / "corrective_clicks.json"
    ),
) -> None:
    """Correct masks by clicks."""
    generator = np.random.default_rng(seed)
    scores: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    follows: dict[str, dict[int, list[bool]]] = {way: {0: [], 1: []} for way in WAYS}
    cases = select_lesions(list_cases(data, load_split(split)[subset]))
    with Segmenter.load() as segmenter:
        for case in cases:
            image = read_image(case)
            embedding = segmenter.encode(image)
            for truth in read_instances(case):
                rows, columns = np.nonzero(truth)
                box = np.array([columns.min(), rows.min(), columns.max(), rows.max()], np.float64)
                size = np.tile([box[2] - box[0], box[3] - box[1]], 2)
                box += generator.uniform(-JITTER, JITTER, 4) * size
                height, width = image.shape
                box = np.clip(box, 0, np.tile([width - 1.0, height - 1.0], 2))
                for way in WAYS:
                    done = _correct(segmenter, embedding, box, truth, way, follows[way])
                    scores[way].append(done)
    results: dict[str, Any] = {}
    for way in WAYS:
        means = np.mean(scores[way], axis=0)
        results[way] = {
            "dice_after_0_1_2_3_clicks": [round(float(value), 4) for value in means],
            "clicks_beside_obeyed": round(float(np.mean(follows[way][0])), 3),
            "clicks_on_obeyed": round(float(np.mean(follows[way][1])), 3),
        }
    Console().print(results)
    document = {
        "benchmark": "corrective_clicks",
        "subset": subset,
        "lesions": len(scores[WAYS[0]]),
        "box_jitter": JITTER,
        "results": results,
    }
    write_results(output, document)


def _correct(
    segmenter: Segmenter,
    embedding: Any,
    box: npt.NDArray[np.float64],
    truth: Mask,
    way: str,
    follows: dict[int, list[bool]],
) -> list[float]:
    prediction = segmenter.predict(embedding, boxes=[box])
    points: list[list[int]] = []
    labels: list[int] = []
    found = [dice(prediction.masks[0, 0], truth)]
    for _ in range(CLICKS):
        point, label = next_click(prediction.masks[0, 0], truth)
        points.append(point)
        labels.append(label)
        if way == WAYS[2]:
            prediction = predict_with_clicks(
                segmenter, embedding, box=box, point_coords=points, point_labels=labels
            )
        else:
            prediction = segmenter.predict(
                embedding,
                boxes=[box],
                point_coords=[points],
                point_labels=[labels],
                mask_input=prediction.low_res_logits if way == WAYS[1] else None,
            )
        mask = prediction.masks[0, 0]
        follows[label].append(bool(mask[point[1], point[0]]) == bool(label))
        found.append(dice(mask, truth))
    return found


if __name__ == "__main__":
    typer.run(command)
