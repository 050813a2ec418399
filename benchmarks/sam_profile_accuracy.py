"""Dice of the SAM pair in the code of annotation tools, beside that of the bundle it was made from.

Run it in the development environment, with BUSI at hand:
`python benchmarks/sam_profile_accuracy.py --data Dataset_BUSI_with_GT --split busi_split_v1.json`.
Writes `benchmarks/results/sam_profile_accuracy.json`. It needs Python 3.11 and `pip install
--no-deps samexporter==0.5.0 anylabeling==0.4.43`.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from samus_edge.benchmarking.bench_run import write_results
from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.data.prompt_protocol import STANDARD_PROTOCOLS, Prompt, case_generator
from samus_edge.data.splitting import load_split
from samus_edge.evaluation.metrics import Mask, dice, iou
from samus_edge.export.sam_profile import write_sam_profile
from samus_edge.runtime import Segmenter
from samus_edge.weights.bundle_file import load_bundle_model

RESULTS_DIR = Path(__file__).resolve().parent / "results"

CANVAS_HW = (684, 1024)
"""What AnyLabeling and X-AnyLabeling draw every image on, (H, W), pixels."""

MARGIN = 0.25
"""Width of the black margin in the last comparison, as a part of the image's."""

Grey = npt.NDArray[np.uint8]
Segment = Callable[[Grey, list[Prompt]], list[Mask]]


@dataclass
class Scores:
    """Of one way to segment, with one kind of prompt."""

    dice: list[float] = field(default_factory=list)
    iou_with_bundle: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, float]:
        """Means, and the lowest agreement."""
        return {
            "dice": round(float(np.mean(self.dice)), 4),
            "iou_with_bundle": round(float(np.mean(self.iou_with_bundle)), 4),
            "lowest_iou_with_bundle": round(float(np.min(self.iou_with_bundle)), 4),
        }


def with_bundle(segmenter: Segmenter) -> Segment:
    """The bundle itself."""

    def segment(image: Grey, prompts: list[Prompt]) -> list[Mask]:
        embedding = segmenter.encode(image)
        return [
            segmenter.predict(
                embedding,
                boxes=None if prompt.box is None else prompt.box[None],
                point_coords=prompt.points[None] if len(prompt.points) else None,
            ).masks[0, 0]
            for prompt in prompts
        ]

    return segment


def with_tool(tool: Any) -> Segment:
    """A tool's own inference: `encode` and `predict_masks`."""

    def segment(image: Grey, prompts: list[Prompt]) -> list[Mask]:
        embedding = tool.encode(np.repeat(image[..., None], 3, axis=2))
        return [
            np.asarray(tool.predict_masks(embedding, _marks(prompt)))[0, 0] > 0
            for prompt in prompts
        ]

    return segment


def on_canvas(segment: Segment) -> Segment:
    """The image on AnyLabeling's canvas, and the canvas taken for the image: nothing cut off."""

    def segment_canvas(image: Grey, prompts: list[Prompt]) -> list[Mask]:
        height, width = image.shape
        scale = min(CANVAS_HW[0] / height, CANVAS_HW[1] / width)
        matrix = np.array([[scale, 0, 0], [0, scale, 0]])
        canvas = cv2.warpAffine(image, matrix, CANVAS_HW[::-1], flags=cv2.INTER_LINEAR)
        scaled = [
            Prompt(
                box=None if prompt.box is None else prompt.box * np.float32(scale),
                points=prompt.points * np.float32(scale),
            )
            for prompt in prompts
        ]
        back = np.array([[1 / scale, 0, 0], [0, 1 / scale, 0]])
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


def _marks(prompt: Prompt) -> list[dict[str, object]]:
    """A prompt as the tools have it."""
    marks: list[dict[str, object]] = []
    if prompt.box is not None:
        marks.append({"type": "rectangle", "data": prompt.box.tolist(), "label": 1})
    marks += [{"type": "point", "data": xy, "label": 1} for xy in prompt.points.tolist()]
    return marks


def _anylabeling(encoder: Path, decoder: Path) -> Any:
    """AnyLabeling's inference without its package's `__init__.py`, which imports Qt."""
    name = "anylabeling.services.auto_labeling"
    spec = importlib.util.find_spec("anylabeling")
    if spec is None or spec.submodule_search_locations is None:
        raise typer.BadParameter(
            "AnyLabeling is missing: pip install --no-deps anylabeling==0.4.43"
        )
    parent = importlib.util.module_from_spec(
        importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
    )
    root = Path(spec.submodule_search_locations[0])
    parent.__path__ = [str(root / "services" / "auto_labeling")]
    sys.modules[name] = parent
    module: Any = importlib.import_module(f"{name}.sam_onnx")
    return module.SegmentAnythingONNX(str(encoder), str(decoder))


def compare(
    cases: list[UltrasoundCase], ways: Mapping[str, Segment]
) -> dict[str, dict[str, dict[str, float]]]:
    """Score every way on every lesion; the first one is what the others are compared with."""
    scores = {name: {protocol.name: Scores() for protocol in STANDARD_PROTOCOLS} for name in ways}
    for case in cases:
        image, targets = read_image(case), read_instances(case)
        for protocol in STANDARD_PROTOCOLS:
            prompts = [
                protocol.prompt(target, case_generator(case.key, instance, 0))
                for instance, target in enumerate(targets)
            ]
            reference: list[Mask] = []
            for name, segment in ways.items():
                masks = segment(image, prompts)
                reference = reference or masks
                score = scores[name][protocol.name]
                score.dice += map(dice, masks, targets)
                score.iou_with_bundle += map(iou, masks, reference)
    return {
        name: {prompt: score.to_json() for prompt, score in by_prompt.items()}
        for name, by_prompt in scores.items()
    }


def main(
    data: Annotated[Path, typer.Option(help="Folder of BUSI.")],
    split: Annotated[Path, typer.Option(help="JSON file with the subsets.")],
    subset: Annotated[str, typer.Option(help="Which of them.")] = "val",
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS_DIR
    / "sam_profile_accuracy.json",
) -> None:
    """Export the default bundle as a pair and compare."""
    console = Console()
    cases = select_lesions(list_cases(data, load_split(split)[subset]))
    samexporter: Any = importlib.import_module("samexporter.sam_onnx")
    with tempfile.TemporaryDirectory() as folder, Segmenter.load() as segmenter:
        pair = write_sam_profile(load_bundle_model(), Path(folder) / "pair", name="default")
        tool = samexporter.SegmentAnythingONNX(str(pair.encoder), str(pair.decoder), "cpu")
        bundle = with_bundle(segmenter)
        ways = {
            "bundle": bundle,
            "samexporter": with_tool(tool),
            "AnyLabeling": with_tool(_anylabeling(pair.encoder, pair.decoder)),
            "bundle, on AnyLabeling's canvas, nothing cut off": on_canvas(bundle),
            "bundle, black margin": beside_black(bundle),
            "samexporter, black margin": beside_black(with_tool(tool)),
        }
        result = compare(cases, ways)
    about = {"subset": subset, "images": len(cases)}
    write_results(out, {**about, "results": result})
    for name, by_prompt in result.items():
        console.print(name, by_prompt)


if __name__ == "__main__":
    typer.run(main)
