"""Dice of the SAM pair in the code of annotation tools, beside that of the bundle it was made from.

`python benchmarks/sam_profile_accuracy.py --data Dataset_BUSI_with_GT --split busi_split_v1.json`

It needs Python 3.11 and `pip install --no-deps samexporter==0.5.0 anylabeling==0.4.43`.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.console import progress_bar
from samus_edge.data.case import read_image, read_instances
from samus_edge.data.prompt_protocol import STANDARD_PROTOCOLS, Prompt, case_generator
from samus_edge.evaluation.metrics import Mask, dice, iou
from samus_edge.evaluation.predictor import predict_prompts
from samus_edge.export.sam_profile import write_sam_profile
from samus_edge.runtime import Segmenter
from samus_edge.weights.bundle_file import load_bundle_model

CANVAS_HW = (684, 1024)
"""What AnyLabeling and X-AnyLabeling draw every image on, (H, W), pixels."""
MARGIN = 0.25
"""Width of the black margin in the last comparison, as a part of the image's."""

Grey = npt.NDArray[np.uint8]
Segment = Callable[[Grey, list[Prompt]], list[Mask]]


def with_bundle(segmenter: Segmenter) -> Segment:
    """The bundle itself."""

    def segment(image: Grey, prompts: list[Prompt]) -> list[Mask]:
        return list(predict_prompts(segmenter, segmenter.encode(image), prompts).masks[:, 0])

    return segment


def with_tool(tool: Any) -> Segment:
    """A tool's own inference: `encode` and `predict_masks`."""

    def marks(prompt: Prompt) -> list[dict[str, object]]:
        box = [] if prompt.box is None else [("rectangle", prompt.box.tolist())]
        points = [("point", xy) for xy in prompt.points.tolist()]
        return [{"type": kind, "data": data, "label": 1} for kind, data in (*box, *points)]

    def segment(image: Grey, prompts: list[Prompt]) -> list[Mask]:
        embedding = tool.encode(np.repeat(image[..., None], 3, axis=2))
        found = [tool.predict_masks(embedding, marks(prompt)) for prompt in prompts]
        return [np.asarray(masks)[0, 0] > 0 for masks in found]

    return segment


def on_canvas(segment: Segment) -> Segment:
    """The image on AnyLabeling's canvas, and the canvas taken for the image: nothing cut off."""

    def segment_canvas(image: Grey, prompts: list[Prompt]) -> list[Mask]:
        height, width = image.shape
        scale = min(CANVAS_HW[0] / height, CANVAS_HW[1] / width)
        there, back = (np.array([[by, 0, 0], [0, by, 0]]) for by in (scale, 1 / scale))
        canvas = cv2.warpAffine(image, there, CANVAS_HW[::-1], flags=cv2.INTER_LINEAR)
        scaled = [
            Prompt(
                box=None if prompt.box is None else prompt.box * np.float32(scale),
                points=prompt.points * np.float32(scale),
            )
            for prompt in prompts
        ]
        masks = [mask.astype(np.float32) for mask in segment(canvas.astype(np.uint8), scaled)]
        return [np.asarray(cv2.warpAffine(mask, back, (width, height)) > 0.5) for mask in masks]

    return segment_canvas


def beside_black(segment: Segment) -> Segment:
    """The image with a black margin on its right that belongs to it."""

    def segment_wide(image: Grey, prompts: list[Prompt]) -> list[Mask]:
        width = image.shape[1]
        wide = np.pad(image, ((0, 0), (0, round(MARGIN * width))))
        return [mask[:, :width] for mask in segment(wide, prompts)]

    return segment_wide


def anylabeling(encoder: Path, decoder: Path) -> Any:
    """AnyLabeling's inference without its package's `__init__.py`, which imports Qt."""
    name = "anylabeling.services.auto_labeling"
    spec = importlib.util.find_spec("anylabeling")
    if spec is None or spec.submodule_search_locations is None:
        raise typer.BadParameter("AnyLabeling is missing; see the top of this file.")
    parent = importlib.util.module_from_spec(
        importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
    )
    root = Path(spec.submodule_search_locations[0])
    parent.__path__ = [str(root / "services" / "auto_labeling")]
    sys.modules[name] = parent
    module: Any = importlib.import_module(f"{name}.sam_onnx")
    return module.SegmentAnythingONNX(str(encoder), str(decoder))


def command(
    data: recipe.BusiFolder,
    split: recipe.BusiSplit,
    subset: recipe.Subset = "val",
    limit: recipe.Limit = None,
    output: recipe.Output = None,
) -> None:
    """Export the default bundle as a pair and compare."""
    cases = recipe.lesion_cases(data, split, subset, limit)
    samexporter: Any = importlib.import_module("samexporter.sam_onnx")
    scores: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        Segmenter.load() as segmenter,
        progress_bar("comparing", len(cases)) as bar,
    ):
        pair = write_sam_profile(load_bundle_model(), Path(folder) / "pair", name="default")
        bundle = with_bundle(segmenter)
        tool = samexporter.SegmentAnythingONNX(str(pair.encoder), str(pair.decoder), "cpu")
        ways = {
            "bundle": bundle,
            "samexporter": with_tool(tool),
            "AnyLabeling": with_tool(anylabeling(pair.encoder, pair.decoder)),
            "bundle, on AnyLabeling's canvas, nothing cut off": on_canvas(bundle),
            "bundle, black margin": beside_black(bundle),
            "samexporter, black margin": beside_black(with_tool(tool)),
        }
        for case in cases:
            image, targets = read_image(case), read_instances(case)
            for protocol in STANDARD_PROTOCOLS:
                prompts = [
                    protocol.prompt(target, case_generator(case.key, instance, 0))
                    for instance, target in enumerate(targets)
                ]
                reference = bundle(image, prompts)
                for name, segment in ways.items():
                    masks = segment(image, prompts)
                    scores[name, protocol.name] += zip(
                        map(dice, masks, targets), map(iou, masks, reference), strict=True
                    )
            bar.update(advance=1)
    results: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (name, prompt), pairs in scores.items():
        dices, ious = np.array(pairs).T
        results[name][prompt] = {
            "dice": round(float(dices.mean()), 4),
            "iou_with_bundle": round(float(ious.mean()), 4),
            "lowest_iou_with_bundle": round(float(ious.min()), 4),
        }
    recipe.print_rows(
        f"{len(cases)} images of {subset}",
        (
            {"way": name, "prompt": prompt, **row}
            for name, by_prompt in results.items()
            for prompt, row in by_prompt.items()
        ),
    )
    document = {"subset": subset, "images": len(cases), "results": results}
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
