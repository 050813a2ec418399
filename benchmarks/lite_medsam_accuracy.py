"""Dice of LiteMedSAM and of the default bundle on the same lesions with the same boxes, in one run.

Run it in the development environment, with BUSI at hand:
`python benchmarks/lite_medsam_accuracy.py --data Dataset_BUSI_with_GT --split busi_split_v1.json`.
Writes `benchmarks/results/lite_medsam_accuracy.json`. LiteMedSAM was trained with boxes only, so it
gets no points; BUSI was probably in its training data, our test subset included.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import Progress

from lite_medsam import INPUT_SIZE, boxed_decoder, build_lite_medsam, encoder_input
from samus_edge.benchmarking.bench_run import write_results
from samus_edge.data.case import UltrasoundCase, select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.data.prompt_protocol import box_sweep
from samus_edge.data.splitting import load_groups, load_split
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.predictor import Predictor
from samus_edge.evaluation.robustness import loose_box_sweep
from samus_edge.runtime import Segmenter

RESULTS_DIR = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, eq=False)
class LiteMedSamEmbedding:
    """Embeddings, (1, 256, 64, 64), float32, and the size of the image, (H, W), pixels."""

    image_embeddings: Any
    original_hw: tuple[int, int]


@dataclass(frozen=True, eq=False)
class LiteMedSamMasks:
    """Masks (N, 1, H, W), bool, and predicted IoU (N, 1), float32."""

    masks: npt.NDArray[np.bool_]
    iou_predictions: npt.NDArray[np.float32]


class LiteMedSamPredictor:
    """LiteMedSAM with its own preprocessing: longest side to 256, padded, min-max normalised."""

    def __init__(self) -> None:
        self._model: Any = build_lite_medsam()
        self._decoder: Any = boxed_decoder(self._model)

    def encode(self, image: npt.NDArray[np.uint8]) -> LiteMedSamEmbedding:
        """Encode a (H, W) grey image."""
        import torch

        with torch.no_grad():
            embeddings = self._model.image_encoder(torch.from_numpy(encoder_input(image)))
        return LiteMedSamEmbedding(embeddings, (image.shape[0], image.shape[1]))

    def predict(
        self,
        embedding: LiteMedSamEmbedding,
        *,
        boxes: npt.NDArray[np.float32] | None = None,
        point_coords: npt.NDArray[np.float32] | None = None,
        point_labels: npt.NDArray[np.int32] | None = None,
    ) -> LiteMedSamMasks:
        """Segment from (N, 4) boxes in pixels of the image.

        Raises:
            ValueError: if there are points, or no boxes.
        """
        import torch

        if boxes is None or point_coords is not None or point_labels is not None:
            raise ValueError("LiteMedSAM takes boxes only; give boxes and no points.")
        height, width = embedding.original_hw
        scale = INPUT_SIZE / max(height, width)
        size_wh = (round(width * scale), round(height * scale))
        masks, ious = [], []
        for box in boxes:
            scaled = torch.from_numpy((box * scale).astype(np.float32))[None, None]
            with torch.no_grad():
                logits, iou = self._decoder(embedding.image_embeddings, scaled)
            visible = logits[0, 0, : size_wh[1], : size_wh[0]].numpy()
            resized = cv2.resize(visible, (width, height), interpolation=cv2.INTER_LINEAR)
            masks.append(np.asarray(resized) > 0)
            ious.append(float(iou[0, 0]))
        return LiteMedSamMasks(np.stack(masks)[:, None], np.array(ious, np.float32)[:, None])


def main(
    data: Annotated[Path, typer.Option(help="Folder of BUSI.", exists=True, file_okay=False)],
    split: Annotated[Path, typer.Option(help="JSON file with the subsets.", exists=True)],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle; the default one if left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS_DIR
    / "lite_medsam_accuracy.json",
) -> None:
    """Evaluate both on the test subset with boxes of 0 to 20 % jitter, and 5 to 20 % too loose."""
    cases = select_lesions(list_cases(data, load_split(split)["test"]))
    groups = load_groups(split)
    console = Console()
    result: dict[str, object] = {"subset": "test"}
    with Segmenter.load(bundle) as segmenter:
        predictors: dict[str, Predictor[Any]] = {
            "samus-edge": segmenter,
            "LiteMedSAM": LiteMedSamPredictor(),
        }
        for name, predictor in predictors.items():
            result[name] = _evaluate(name, predictor, cases, groups, console)
    write_results(out, result)


def _evaluate(
    name: str,
    predictor: Predictor[Any],
    cases: list[UltrasoundCase],
    groups: dict[str, int],
    console: Console,
) -> dict[str, float]:
    """Mean Dice over all lesions by prompt."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(name, total=len(cases))
        report = evaluate(
            predictor,
            cases,
            protocols=[*box_sweep(), *loose_box_sweep()],
            groups=groups,
            on_case=lambda case: progress.advance(task),
        )
    prompts = dict.fromkeys(score.prompt for score in report.scores)
    dice = {
        prompt: float(np.mean([score.dice for score in report.scores if score.prompt == prompt]))
        for prompt in prompts
    }
    console.print(name, {prompt: round(value, 4) for prompt, value in dice.items()})
    return dice


if __name__ == "__main__":
    typer.run(main)
