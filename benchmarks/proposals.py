"""How good the lesions are that the model proposes without a prompt.

`python benchmarks/proposals.py --data shared/data --splits runs/proposing/splits`

Of every image with a lesion: Dice of the first proposal with the lesion that it meets best, the
best of three, and what a click on the middle of the image would give, without which no figure says
anything. Lesion against normal is judged within one dataset alone: scanners tell them apart, too.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.console import progress_bar
from samus_edge.data.case import read_image, read_instances
from samus_edge.data.collection import load_collection
from samus_edge.data.dataset import list_cases
from samus_edge.evaluation.metrics import Mask, dice
from samus_edge.evaluation.normal_images import area_under_curve
from samus_edge.runtime import Segmenter
from samus_edge.training.config import find_config, read_config

ALWAYS = 1e-9  # lowest score: what is found is to be judged whether it would be shown or not


def best_dice(masks: Any, truths: list[Mask]) -> list[float]:
    """Of each mask, the Dice with the lesion that it meets best."""
    return [max(dice(mask, truth) for truth in truths) for mask in masks]


def command(
    data: recipe.DatasetsFolder,
    config: Annotated[str, typer.Option(help="Configuration that lists them.")] = "tiny_proposing",
    splits: recipe.Splits = None,
    subset: recipe.Subset = "test",
    further: recipe.Further = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle.")] = None,
    limit: recipe.Limit = None,
    output: recipe.Output = None,
) -> None:
    """Propose lesions, and compare them with those that people marked."""
    datasets = read_config(find_config(config)).datasets
    subsets = load_collection(data, datasets, splits)
    sets = {d.title: subsets[d.title].get(subset) for d in datasets if d.proposals}
    sets |= {folder.name: list_cases(folder) for folder in further or ()}
    results = []
    with Segmenter.load(bundle, backend="onnxruntime") as segmenter:
        for name, listed in sets.items():
            cases = recipe.evenly(listed, limit)
            rows: list[tuple[float, ...]] = []
            presence: dict[bool, list[float]] = {True: [], False: []}
            with progress_bar(name, len(cases)) as bar:
                for case in cases:
                    embedding = segmenter.encode(read_image(case))
                    found = segmenter.propose(embedding, max_lesions=3, min_score=ALWAYS)
                    truths = [mask for mask in read_instances(case) if mask.any()]
                    assert found.proposals is not None
                    presence[bool(truths)].append(found.proposals.presence)
                    if truths:
                        height, width = embedding.original_hw
                        middle = [[(width - 1) / 2, (height - 1) / 2]]
                        guess = segmenter.predict(embedding, point_coords=[middle])
                        proposed = best_dice(found.masks[:, 0], truths) or [0.0]
                        guessed = best_dice(guess.masks[0], truths)
                        rows.append((proposed[0], max(proposed), *guessed))
                    bar.update(advance=1)
            first, best, middle_dice = np.mean(rows, axis=0).round(4).tolist()
            row = {"dataset": name, "images": len(rows), "first": first, "best_of_three": best}
            row |= {"middle_click": middle_dice, "normals": len(presence[False])}
            auc = area_under_curve(presence[True], presence[False]) if presence[False] else None
            results.append({**row, "auroc": auc and round(auc, 4)})
    recipe.print_rows(f"proposals on {subset}", results)
    recipe.write_results(__file__, {"subset": subset, "results": results}, output)


if __name__ == "__main__":
    typer.run(command)
