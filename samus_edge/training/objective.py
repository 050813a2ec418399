"""What a training minimises: the loss on annotated masks."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from samus_edge.errors import BadArgumentError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.backends.backend import cpu_features, default_threads
from samus_edge.runtime.prompts import PADDING_LABEL
from samus_edge.training.batches import TrainingData, share_threads, to_device
from samus_edge.training.config import TrainConfig
from samus_edge.training.losses import click_loss, mask_iou, segmentation_loss, upscale
from samus_edge.training.prompt_schedule import (
    PromptBatch,
    box_prompts,
    click_prompts,
    corrected_prompts,
    joined_prompts,
    scheduled_prompts,
)
from samus_edge.training.proposals import proposal_loss
from samus_edge.training.training_samples import LesionDataset, TrainingSample, collate


@dataclass(frozen=True)
class ValidationScores:
    """Scores on the validation cases with the kinds of prompts that the training uses.

    Of several datasets each counts the same, however many cases it has.

    Attributes:
        loss: mean loss over cases and prompts, with that of the proposals where they are learned.
        dice_box: mean Dice at 256x256 with a jittered box, in [0, 1]; None if boxes are not
            trained.
        dice_point: mean Dice at 256x256 with the centre point, in [0, 1]; None if clicks are not
            trained.
        datasets: "loss", and Dice with "box" and "point", by dataset if there are several.
    """

    loss: float
    dice_box: float | None
    dice_point: float | None
    datasets: dict[str, dict[str, float]] = field(default_factory=dict)


REFINE_WEIGHT = 0.5
PROPOSALS = "proposals"  # their loss, among the scores of a dataset
VALIDATION_SEED = 0


class MaskObjective(nn.Module):
    """Samples and the loss of a batch of them, which :class:`~.trainer.Trainer` minimises.

    It is a module so that several processes can share its gradients.

    Attributes:
        model: the model in training.
        config: the training configuration.
        samples: the samples to learn from.
        val_samples: the samples to validate on.
        fingerprint: tells the cases and their order from others.

    Args:
        model: the model in training.
        config: the training configuration.
        data: the cases to learn from and to validate on.

    Raises:
        BadArgumentError: if there are no validation cases.
        DataError: if a case cannot be read or has no lesion.
    """

    def __init__(self, model: SamusHF, config: TrainConfig, data: TrainingData) -> None:
        super().__init__()
        if not data.val_cases:
            raise BadArgumentError(
                "training needs at least one case with a lesion to validate on, got 0. "
                "Add cases to the subset val."
            )
        image_size = model.prompt_encoder.image_size
        self.model = model
        self.config = config
        self.fingerprint = data.fingerprint()
        self.samples = LesionDataset(
            data.train_cases,
            image_size=image_size,
            augmentation=config.augmentation,
            seed=config.seed,
            boxes=config.boxes,
            normal_cases=data.normal_cases,
            source=data.source,
            datasets=data.datasets,
            proposals=config.loss.proposals > 0,
        )
        self._val_datasets = [case.dataset for case in data.val_cases]
        self.val_samples = LesionDataset(
            data.val_cases,
            image_size=image_size,
            augmentation=None,
            seed=VALIDATION_SEED,
            source=data.source,
            datasets=data.datasets,
            proposals=config.loss.proposals > 0,
        )

    def forward(self, batch: TrainingSample, rng: np.random.Generator) -> Tensor:
        """Decode every scheduled prompt, refine some, and average their losses.

        Args:
            batch: samples, stacked.
            rng: source of randomness. The same for all processes of a step.

        Returns:
            The loss: scalar, float32.
        """
        prompts = self.config.prompts
        half = uses_bf16(self.config.precision, batch.image.device)
        weight = self.config.loss.proposals
        if self.config.proposer_only:
            with torch.no_grad():
                embeddings = encode(self.model, batch, half=half)
            return weight * self._proposal_losses(self.model, embeddings, batch).mean()
        embeddings = encode(self.model, batch, half=half)
        schedule = scheduled_prompts(batch, prompts, rng)
        refine = rng.random() < prompts.refine_probability
        decoded = self._decode(embeddings, schedule)
        losses = self._losses(schedule, decoded, batch)
        for _ in range(prompts.refine_iterations if refine else 0):
            schedule = [
                corrected_prompts(before, logits[:, :1], batch.mask, rng)
                for before, (logits, _) in zip(schedule, decoded, strict=True)
            ]
            decoded = self._decode(embeddings, schedule)
            corrected = self._losses(schedule, decoded, batch)
            losses += [REFINE_WEIGHT * loss for loss in corrected]
        loss = torch.stack(losses).sum() / len(schedule)
        if weight:
            loss = loss + weight * self._proposal_losses(self.model, embeddings, batch).mean()
        return loss

    def _proposal_losses(self, model: SamusHF, embeddings: Tensor, batch: TrainingSample) -> Tensor:
        """(B,): 0 for a sample that does not teach the proposer."""
        proposer = model.lesion_proposer
        assert proposer is not None  # which a model has where the weight is not 0
        maps, presence = proposer(embeddings.float())
        of_maps, of_presence = batch.proposal_weights.unbind(1)
        return of_maps * proposal_loss(maps, presence, batch.proposals, of_presence)

    def validate(self, model: SamusHF) -> ValidationScores:
        """Score a model in float32 with a box and a click, as far as the training uses them."""
        model.eval()
        config, device = self.config, next(model.parameters()).device
        # by dataset, and there by what is scored
        scores: dict[str, dict[str, list[float]]] = {name: {} for name in self._val_datasets}
        indices, size = range(len(self._val_datasets)), config.batch_size
        batches = [indices[start : start + size] for start in indices[::size]]

        @torch.no_grad()
        def score(numbers: Sequence[int]) -> list[tuple[int, str, list[float]]]:
            batch = to_device(collate([self.val_samples[number] for number in numbers]), device)
            embeddings = encode(model, batch)
            prompts = {}
            if config.prompts.box_probability > 0 and not config.proposer_only:
                prompts["box"] = box_prompts(batch, with_click=False)
            if config.prompts.click_probability > 0 and not config.proposer_only:
                prompts["point"] = click_prompts(batch)
            rows = []
            if config.loss.proposals:
                proposed = self._proposal_losses(model, embeddings, batch)
                rows += [
                    (number, PROPOSALS, [loss])
                    for number, loss, weights in zip(
                        numbers, proposed.tolist(), batch.proposal_weights.tolist(), strict=True
                    )
                    if weights[0]
                ]
            for kind, of_kind in prompts.items():
                logits, iou = model.decode(embeddings, *of_kind)
                loss = segmentation_loss(logits, iou, batch.mask, config.loss)
                overlap = mask_iou(upscale(logits[:, :1]), batch.mask)[:, 0]
                pairs = torch.stack((loss, 2 * overlap / (1 + overlap)), dim=1).tolist()
                rows += [(number, kind, pair) for number, pair in zip(numbers, pairs, strict=True)]
            return rows

        threads = (config.shares or default_threads()) if device.type == "cpu" else 1
        with share_threads(threads) as pool:
            for rows in pool.map(score, batches):
                for number, kind, pair in rows:
                    of_dataset = scores[self._val_datasets[number]]
                    names = (kind,) if kind == PROPOSALS else ("loss", kind)
                    for name, value in zip(names, pair, strict=True):
                        of_dataset.setdefault(name, []).append(value)
        found = {
            name: {what: float(np.mean(values)) for what, values in of_dataset.items()}
            for name, of_dataset in scores.items()
        }

        def mean(what: str) -> float | None:
            values = [of_dataset[what] for of_dataset in found.values() if what in of_dataset]
            return float(np.mean(values)) if values else None

        loss_mean = (mean("loss") or 0.0) + config.loss.proposals * (mean(PROPOSALS) or 0.0)
        return ValidationScores(
            loss_mean, mean("box"), mean("point"), found if len(found) > 1 else {}
        )

    def _losses(
        self,
        schedule: Sequence[PromptBatch],
        decoded: Sequence[tuple[Tensor, Tensor]],
        batch: TrainingSample,
    ) -> list[Tensor]:
        """Mean loss of each batch of prompts: against the masks, and at the clicks."""
        weights = self.config.loss
        losses = []
        for prompts, (logits, iou) in zip(schedule, decoded, strict=True):
            has_mask = batch.mask_weight[:, 0]
            loss = (has_mask * segmentation_loss(logits, iou, batch.mask, weights)).mean()
            if weights.clicks:
                labels = torch.where(has_mask[:, None] > 0, prompts.point_labels, PADDING_LABEL)
                obeyed = click_loss(logits[:, 0], prompts.point_coords, labels)
                loss = loss + weights.clicks * obeyed
            losses.append(loss)
        return losses

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Mixed precision, where the configuration asks for it."""
        enabled = uses_bf16(self.config.precision, device)
        # its cache of rounded weights is one for all threads, whose graphs would hang together
        return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)

    def _decode(
        self, embeddings: Tensor, schedule: Sequence[PromptBatch]
    ) -> list[tuple[Tensor, Tensor]]:
        """Logits and predicted IoU, float32, of each batch of prompts; those of one length at once.

        Points are embedded in float32, as half precision would move them; what is as large as the
        image is in the precision of the embeddings.
        """
        by_length: dict[int, list[int]] = {}
        for number, prompts in enumerate(schedule):
            by_length.setdefault(prompts.point_coords.shape[1], []).append(number)
        image_pe = self.model.prompt_encoder.dense_pe().to(embeddings.dtype)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for numbers in by_length.values():
            prompts = joined_prompts([schedule[number] for number in numbers])
            sparse, dense = self.model.prompt_encoder(*prompts)
            images = embeddings.repeat(len(numbers), 1, 1, 1) if len(numbers) > 1 else embeddings
            with self.autocast(embeddings.device):
                logits, iou = self.model.mask_decoder(
                    images, image_pe, sparse, dense.to(embeddings.dtype)
                )
            parts = (logits.float().chunk(len(numbers)), iou.float().chunk(len(numbers)))
            found |= zip(numbers, zip(*parts, strict=True), strict=True)
        return [found[number] for number in range(len(schedule))]


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether a training computes in bfloat16 on a device.

    Args:
        precision: "fp32", "bf16", or "auto" for bf16 where the device has instructions for it.
        device: the device.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_features())


def encode(model: SamusHF, batch: TrainingSample, *, half: bool = False) -> Tensor:
    """Embeddings (B, C, 32, 32) of a batch, in the memory layout that is fastest to convolve.

    Args:
        model: the model.
        batch: the samples.
        half: whether all of the encoder computes in bfloat16, with weights that are rounded for
            this pass; their gradients and statistics are of the weights as they are.
    """
    encoder, layout = model.image_encoder, torch.channels_last
    images = [
        image.contiguous(memory_format=layout) for image in (batch.image, batch.high_frequency)
    ]
    if not half:
        embeddings: Tensor = encoder(*images)
        return embeddings
    out: Tensor = _rounded(encoder)(*(image.bfloat16() for image in images))
    return out


def _rounded(module: nn.Module) -> nn.Module:
    """A module of the same buffers whose parameters are these, rounded to bfloat16.

    Once for a pass, rather than by autocast at each layer with copies back in between. Batch
    normalisation keeps its parameters, which have to be as precise as its statistics, and so does
    the gate's dilated convolution (see there). The module itself stays as it is: another thread may
    compute with it.
    """
    twin = copy.copy(module)
    is_dilated = isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.dilation) > 1
    stays = is_dilated or isinstance(module, _BatchNorm)
    vars(twin)["_modules"] = {
        name: None if child is None else _rounded(child) for name, child in module._modules.items()
    }
    vars(twin)["_parameters"] = {
        name: parameter if parameter is None or stays else parameter.bfloat16()
        for name, parameter in module._parameters.items()
    }
    return twin


def train_proposer_alone(model: SamusHF) -> None:
    """Freeze all but the lesion proposer, in place; the model has to have one."""
    model.requires_grad_(False)
    assert model.lesion_proposer is not None
    model.lesion_proposer.requires_grad_(True)


def set_training_mode(model: nn.Module) -> None:
    """Training mode, except for frozen batch normalisation, whose statistics must stay."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
