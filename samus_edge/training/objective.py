"""What a training minimises: the loss of one batch from the prompts of one step."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.config import TrainConfig
from samus_edge.training.losses import segmentation_loss
from samus_edge.training.prompt_schedule import PromptBatch, corrected_prompts, scheduled_prompts
from samus_edge.training.training_samples import TrainingSample

REFINE_WEIGHT = 0.5


class TrainingObjective(nn.Module):
    """The loss of a batch; a module of its own so that gradients can be shared among processes.

    Args:
        model: the model in training.
        config: the training configuration.
    """

    def __init__(self, model: SamusHF, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: TrainingSample, rng: np.random.Generator) -> Tensor:
        """Decode every scheduled prompt, refine some, and average their losses.

        Args:
            batch: the samples.
            rng: source of the prompts' randomness; what it draws first, the kinds of prompts, is
                the same for every process.

        Returns:
            Scalar, float32.
        """
        prompts = self.config.prompts
        with self._autocast(batch.image.device):
            embeddings = encode(self.model, batch)
        schedule = scheduled_prompts(batch, prompts, rng)
        refine = rng.random() < prompts.refine_probability
        losses: list[Tensor] = []
        for scheduled in schedule:
            losses += self._prompt_losses(
                embeddings, scheduled, batch, prompts.refine_iterations if refine else 0, rng
            )
        return torch.stack(losses).sum() / len(schedule)

    def _prompt_losses(
        self,
        embeddings: Tensor,
        prompts: PromptBatch,
        batch: TrainingSample,
        iterations: int,
        rng: np.random.Generator,
    ) -> Sequence[Tensor]:
        """Loss of a prompt and, with less weight, of each of its corrections."""
        logits, iou = self._decode(embeddings, prompts)
        losses = [self._loss(logits, iou, batch)]
        for _ in range(iterations):
            prompts = corrected_prompts(prompts, logits[:, :1], batch.mask, rng)
            logits, iou = self._decode(embeddings, prompts)
            losses.append(REFINE_WEIGHT * self._loss(logits, iou, batch))
        return losses

    def _loss(self, logits: Tensor, iou: Tensor, batch: TrainingSample) -> Tensor:
        """Mean loss against the annotated masks and, in their share, the teacher's."""
        weights, share = self.config.loss, self.config.distillation.mask_weight
        loss = segmentation_loss(logits, iou, batch.mask, weights).mean()
        if share:
            taught = segmentation_loss(logits, iou, batch.teacher_mask, weights).mean()
            loss = (1.0 - share) * loss + share * taught
        return loss

    def _decode(self, embeddings: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """Logits and predicted IoU, float32; prompts too, as half precision would move points."""
        sparse, dense = self.model.prompt_encoder(*prompts)
        image_pe = self.model.prompt_encoder.dense_pe()
        with self._autocast(embeddings.device):
            logits, iou = self.model.mask_decoder(embeddings, image_pe, sparse, dense)
        return logits.float(), iou.float()

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        enabled = self.config.precision == "bf16"
        return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def encode(model: SamusHF, batch: TrainingSample) -> Tensor:
    """Embeddings (B, C, 32, 32) of a batch, in the memory layout in which convolutions are
    fastest."""
    layout = torch.channels_last
    embeddings: Tensor = model.image_encoder(
        batch.image.contiguous(memory_format=layout),
        batch.high_frequency.contiguous(memory_format=layout),
    )
    return embeddings


def set_training_mode(model: nn.Module) -> None:
    """Training mode, but for frozen batch normalisation, whose statistics must not change
    either."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
