"""How far the judgement of masks can be trusted: calibration, intervals, and what it sorts out.

`python benchmarks/quality_calibration.py --data DATASETS --config tiny_many --bundle BUNDLE`

The calibration in the bundle (`samus-edge calibrate --quality`) is held against the test part of
every dataset of a configuration, against a dataset that nothing was fitted on (`--other`), and
against the predicted IoU. Then it is fitted anew for each dataset on the validation parts of all
others, and held against the test part of the one that it has not seen.
"""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.console import progress_bar
from samus_edge.data.case import UltrasoundCase, select_lesions
from samus_edge.data.collection import load_collection
from samus_edge.data.dataset import list_cases
from samus_edge.evaluation import quality
from samus_edge.runtime import Segmenter
from samus_edge.runtime.quality import GOOD_DICE, read_calibration
from samus_edge.training.config import find_config, read_config

SAID, LEFT_OUT, IOU = "calibrated", "dataset left out of the fit", "predicted IoU"


def command(
    data: recipe.DatasetsFolder,
    config: Annotated[Path, typer.Option(metavar="FILE|NAME", help="What lists the datasets.")],
    splits: recipe.Splits = None,
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="With a calibration.")] = None,
    other: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A dataset for testing alone.")
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", help="Images of each part.")] = 32,
    output: recipe.Output = None,
) -> None:
    """Hold a bundle's judgement of its masks against the truth."""
    collection = load_collection(data, read_config(find_config(config)).datasets, splits)
    parts: dict[str, dict[str, list[UltrasoundCase]]] = {
        "val": {name: select_lesions(subsets.val) for name, subsets in collection.items()},
        "test": {name: select_lesions(subsets.test) for name, subsets in collection.items()},
        "other": {} if other is None else {other.name: select_lesions(list_cases(other))},
    }
    with Segmenter.load(bundle, backend="onnxruntime") as segmenter:
        fitted = read_calibration(segmenter.bundle.manifest.quality)
        if fitted is None:
            raise typer.BadParameter("calibrate first: samus-edge calibrate --quality ...")
        total = sum(min(count, len(cases)) for part in parts.values() for cases in part.values())
        with progress_bar("judging", total) as bar:
            found = {
                part: {
                    name: quality.judge_cases(
                        segmenter, cases, limit=count, seed=1, on_case=lambda: bar.update(advance=1)
                    )
                    for name, cases in of_part.items()
                }
                for part, of_part in parts.items()
            }
    test, val = found["test"], found["val"]
    pooled = [each for masks in test.values() for each in masks]
    rows = {"all test parts": quality.quality_figures(fitted, pooled)}
    rows |= {name: quality.quality_figures(fitted, test[name]) for name in test}
    rows |= {name: quality.quality_figures(fitted, masks) for name, masks in found["other"].items()}
    unseen, auroc = {}, {}
    for name, masks in test.items():
        others = [each for other_name in val if other_name != name for each in val[other_name]]
        unseen[name] = quality.fit_quality(others, {"left_out": name})
        rows[f"{name}, left out"] = quality.quality_figures(unseen[name], masks)
        of_name, of_unseen = rows[name], rows[f"{name}, left out"]
        values = (of_name["failure_auroc"], of_unseen["failure_auroc"])
        raw = of_name["predicted_iou_failure_auroc"]
        if not math.isnan(raw):  # as it is where every mask is good
            auroc[name] = dict(zip((SAID, LEFT_OUT, IOU), (*values, raw), strict=True))
    scores = {
        SAID: quality.probabilities(fitted, pooled),
        LEFT_OUT: np.concatenate([quality.probabilities(unseen[n], test[n]) for n in test]),
        IOU: np.clip([each.predicted_iou for each in pooled], 0.0, 1.0),
    }
    dices = np.array([each.dice for each in pooled])
    is_good = dices >= GOOD_DICE
    errors = {n: quality.expected_calibration_error(s, is_good) for n, s in scores.items()}
    path = output or Path(__file__).parent / "results" / "quality_calibration.json"
    path.with_suffix(".png").write_bytes(quality.draw_quality(scores, dices, auroc))
    recipe.print_rows("masks", ({"data": name, **row} for name, row in rows.items()))
    print("expected calibration error, all test parts:", errors)
    results = {
        name: {key: None if math.isnan(value) else round(value, 4) for key, value in row.items()}
        for name, row in rows.items()
    }
    document = {"images_of_each": count, "results": results, "calibration_errors": errors}
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
