"""What corrective clicks do: Dice after each, and whether the clicked pixel follows.

`python benchmarks/corrective_clicks.py --data BUSI --split split.json`

A box is up to 20 % off on each side, so that there is something to correct. Each click is in the
middle of the largest error, on the lesion or beside it, as in the literature. Three ways to use
them: all clicks at once beside the box; each click refines the mask before it (its logits go in as
well), both as the network alone answers; and `Segmenter.predict`, which also sees to it that the
clicked place follows.
"""

from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.console import progress_bar
from samus_edge.data.case import read_image, read_instances
from samus_edge.data.prompt_protocol import mask_box
from samus_edge.evaluation.metrics import Mask, dice
from samus_edge.runtime import Segmenter

JITTER, CLICKS = 0.2, 3
WAYS = ("at once", "each refines", "predict")


def next_click(mask: Mask, truth: Mask) -> tuple[list[int], int]:
    """The middle of the largest error: (x, y), and 1 on the lesion or 0 beside it."""
    depths = [
        np.asarray(cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, 5))
        for region in (mask & ~truth, truth & ~mask)
    ]
    label = int(depths[1].max() >= depths[0].max())
    row, column = np.unravel_index(int(depths[label].argmax()), depths[label].shape)
    return [int(column) - 1, int(row) - 1], label


def correct(
    segmenter: Segmenter, embedding: Any, box: npt.NDArray[np.float64], truth: Mask, way: str
) -> tuple[list[float], list[tuple[int, bool]]]:
    """Dice after each click, and for each click its label and whether its pixel followed."""
    prediction = segmenter.predict(embedding, boxes=[box])
    points: list[list[int]] = []
    labels: list[int] = []
    scores, follows = [dice(prediction.masks[0, 0], truth)], []
    for _ in range(CLICKS):
        point, label = next_click(prediction.masks[0, 0], truth)
        points.append(point)
        labels.append(label)
        if way == "predict":
            prediction = segmenter.predict(
                embedding, boxes=[box], point_coords=[points], point_labels=[labels]
            )
        else:
            prediction = segmenter.decode(
                embedding,
                boxes=[box],
                point_coords=[points],
                point_labels=[labels],
                mask_input=prediction.low_res_logits if way == "each refines" else None,
            )
        mask = prediction.masks[0, 0]
        scores.append(dice(mask, truth))
        follows.append((label, bool(mask[point[1], point[0]]) == bool(label)))
    return scores, follows


def command(
    data: recipe.BusiFolder,
    split: recipe.BusiSplit,
    subset: recipe.Subset = "test",
    limit: recipe.Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of the boxes.")] = 0,
    output: recipe.Output = None,
) -> None:
    """Correct masks by clicks."""
    generator = np.random.default_rng(seed)
    scores: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    follows: dict[str, list[tuple[int, bool]]] = {way: [] for way in WAYS}
    cases = recipe.lesion_cases(data, split, subset, limit)
    with Segmenter.load() as segmenter, progress_bar("clicking", len(cases)) as bar:
        for case in cases:
            image = read_image(case)
            embedding = segmenter.encode(image)
            for truth in read_instances(case):
                box = mask_box(truth).astype(np.float64)
                box += generator.uniform(-JITTER, JITTER, 4) * np.tile(box[2:] - box[:2], 2)
                box = np.clip(box, 0, np.tile([image.shape[1] - 1.0, image.shape[0] - 1.0], 2))
                for way in WAYS:
                    dices, followed = correct(segmenter, embedding, box, truth, way)
                    scores[way].append(dices)
                    follows[way] += followed
            bar.update(advance=1)
    results = {
        way: {
            "dice_after_0_1_2_3_clicks": np.mean(scores[way], axis=0).round(4).tolist(),
            **{
                f"clicks_{place}_obeyed": round(
                    float(np.mean([done for label, done in follows[way] if label == wanted])), 3
                )
                for wanted, place in enumerate(("beside", "on"))
            },
        }
        for way in WAYS
    }
    lesions = len(scores[WAYS[0]])
    recipe.print_rows(
        f"{lesions} lesions of {subset}", ({"way": way, **row} for way, row in results.items())
    )
    document = {"subset": subset, "lesions": lesions, "box_jitter": JITTER, "results": results}
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
