"""Scores on the validation cases, by which the best weights are chosen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from samus_edge.data.training_samples import LesionDataset, TrainingSample
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.batches import load_batches, to_device
from samus_edge.training.config import TrainConfig
from samus_edge.training.losses import mask_iou, segmentation_loss, upscale
from samus_edge.training.objective import encode
from samus_edge.training.prompt_batch import PromptBatch, box_prompts, click_prompts


@dataclass(frozen=True)
class ValidationScores:
    """What the prompts that the training uses give on the validation cases.

    Attributes:
        loss: mean loss over cases and prompts.
        dice_box: mean Dice at 256x256 with a jittered box, in [0, 1]; None if boxes are not trained.
        dice_point: mean Dice at 256x256 with the centre point, in [0, 1]; None if clicks are not
            trained.
    """

    loss: float
    dice_box: float | None
    dice_point: float | None


@torch.no_grad()
def validate(
    model: SamusHF, data: LesionDataset, config: TrainConfig, device: torch.device
) -> ValidationScores:
    """Score a model, which is left in evaluation mode, in float32.

    Args:
        model: the model, on the device.
        data: fixed samples.
        config: the training configuration.
        device: what to compute on.
    """
    model.eval()
    losses: list[Tensor] = []
    dices: dict[str, list[Tensor]] = {}
    indices = list(range(len(data)))
    size = config.batch_size
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    for loaded in load_batches(data, batches, config.num_workers):
        batch = to_device(loaded, device)
        embeddings = encode(model, batch)
        for kind, prompts in _validation_prompts(batch, config).items():
            logits, iou = model.decode(embeddings, *prompts)
            losses.append(segmentation_loss(logits, iou, batch.mask, config.loss))
            overlap = mask_iou(upscale(logits[:, :1]), batch.mask)[:, 0]
            dices.setdefault(kind, []).append(2 * overlap / (1 + overlap))
    means = {kind: float(torch.cat(values).mean()) for kind, values in dices.items()}
    return ValidationScores(
        float(torch.cat(losses).mean()), dice_box=means.get("box"), dice_point=means.get("point")
    )


def _validation_prompts(batch: TrainingSample, config: TrainConfig) -> dict[str, PromptBatch]:
    """A box and a click, as far as the training uses them."""
    prompts = {}
    if config.prompts.box_probability > 0:
        prompts["box"] = box_prompts(batch, with_click=False)
    if config.prompts.click_probability > 0:
        prompts["point"] = click_prompts(batch)
    return prompts
