"""The training loop: steps, validation, averaged weights, checkpoints, resume."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from samus_edge.data.busi import UltrasoundCase
from samus_edge.data.training_samples import LesionDataset, TrainingSample, collate
from samus_edge.errors import WeightsError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.atomic_write import write_files_atomically
from samus_edge.training.checkpoint import TrainingState, load_state, save_state
from samus_edge.training.config import TrainConfig, config_document
from samus_edge.training.losses import mask_iou, segmentation_loss, upscale
from samus_edge.training.prompt_batch import (
    PromptBatch,
    box_prompts,
    click_prompts,
    corrected_prompts,
)
from samus_edge.weights.model_file import save_model

STATE_FILE = "state.pt"
BEST_FILE = "best.safetensors"
HISTORY_FILE = "history.csv"
CONFIG_FILE = "config.json"
REFINE_WEIGHT = 0.5
VALIDATION_SEED = 0


@dataclass(frozen=True)
class EpochRecord:
    """One row of the history.

    Attributes:
        epoch: epochs done.
        train_loss: mean loss of the epoch's steps.
        val_loss: Dice + MSE loss of the averaged weights on the validation cases, both prompts.
        val_dice_box: mean Dice at 256x256 with a jittered box, in [0, 1].
        val_dice_point: mean Dice at 256x256 with the centre point, in [0, 1].
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_dice_box: float
    val_dice_point: float


class Trainer:
    """Train SAMUS-HF on lesions, from the start or from the last state.

    Args:
        model: the model with its initial weights.
        config: the training configuration.
        train_cases: cases to learn from.
        val_cases: cases to choose the best checkpoint by.
        out_dir: folder of checkpoints and history; a state found there is resumed.

    Raises:
        ValueError: if there are no validation cases, or fewer training cases than a batch holds.
        WeightsError: if the folder holds a state of another configuration or a damaged one.
        DataError: if a case cannot be read or has no lesion.
    """

    def __init__(
        self,
        model: SamusHF,
        config: TrainConfig,
        train_cases: Sequence[UltrasoundCase],
        val_cases: Sequence[UltrasoundCase],
        out_dir: Path,
    ) -> None:
        self.config = config
        self.out_dir = out_dir
        if len(train_cases) < config.batch_size or not val_cases:
            raise ValueError(
                f"training needs at least batch_size {config.batch_size} cases and one to validate "
                f"on, got {len(train_cases)} and {len(val_cases)}."
            )
        image_size = model.prompt_encoder.image_size
        self.train_data = LesionDataset(
            train_cases, image_size=image_size, augmentation=config.augmentation, seed=config.seed
        )
        self.val_data = LesionDataset(
            val_cases, image_size=image_size, augmentation=None, seed=VALIDATION_SEED
        )
        self.steps_per_epoch = len(self.train_data) // config.batch_size
        # torch's annotations of Module.to leave memory_format out
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        average = _averaging(config.ema_decay)
        self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.averaged = cast(SamusHF, self.ema.module)  # a copy of the model
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, config), betas=(0.9, 0.99))
        self.step = 0
        self.epoch = 0
        self.best_loss = math.inf
        self.skipped_steps = 0
        self._resume()

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch

    def run(self, report: Callable[[EpochRecord], None], progress: Callable[[int], None]) -> Path:
        """Train to the configured number of epochs.

        Args:
            report: called after each epoch.
            progress: called after each step with the steps done.

        Returns:
            Path of the best weights, by validation loss.
        """
        self.out_dir.mkdir(parents=True, exist_ok=True)
        document = json.dumps(config_document(self.config), indent=2)
        write_files_atomically({self.out_dir / CONFIG_FILE: f"{document}\n".encode()})
        while self.epoch < self.config.epochs:
            losses = []
            for batch in self._batches():
                losses.append(self._train_step(batch))
                progress(self.step)
            self.epoch += 1
            record = self._validate(float(np.mean(losses)))
            if record.val_loss < self.best_loss:
                self.best_loss = record.val_loss
                save_model(self.averaged, self.out_dir / BEST_FILE, config_document(self.config))
            self._save(record)
            report(record)
        return self.out_dir / BEST_FILE

    def _batches(self) -> Iterator[TrainingSample]:
        self.train_data.epoch = self.epoch
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.epoch)
        loader: DataLoader[TrainingSample] = DataLoader(
            self.train_data,
            batch_size=self.config.batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=collate,
            generator=generator,
        )
        yield from loader

    def _train_step(self, batch: TrainingSample) -> float:
        """One optimisation step; returns the loss."""
        config = self.config
        factor = _schedule(self.step, config.warmup_steps, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        rng = np.random.default_rng((config.seed, self.step, 1))
        self.model.train()
        with self._autocast():
            embeddings = _encode(self.model, batch)
        with_click = rng.random() < config.box_and_click_probability
        refine = rng.random() < config.refine_probability
        losses = []
        for prompts in (box_prompts(batch, with_click=with_click), click_prompts(batch)):
            logits, iou = self._decode(embeddings, prompts)
            losses.append(segmentation_loss(logits, iou, batch.mask).mean())
            if refine:
                corrected = corrected_prompts(prompts, logits[:, :1], batch.mask, rng)
                logits, iou = self._decode(embeddings, corrected)
                refined = segmentation_loss(logits, iou, batch.mask).mean()
                losses.append(REFINE_WEIGHT * refined)
        loss = torch.stack(losses).sum() / 2
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            self.skipped_steps += 1
        self.step += 1
        self.ema.update_parameters(self.model)
        return float(loss.detach())

    def _decode(self, embeddings: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """Logits and predicted IoU, float32; prompts too, as half precision would move points."""
        sparse, dense = self.model.prompt_encoder(*prompts)
        image_pe = self.model.prompt_encoder.dense_pe()
        with self._autocast():
            logits, iou = self.model.mask_decoder(embeddings, image_pe, sparse, dense)
        return logits.float(), iou.float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16")

    @torch.no_grad()
    def _validate(self, train_loss: float) -> EpochRecord:
        model = self.averaged.eval()
        loader = DataLoader(self.val_data, batch_size=self.config.batch_size, collate_fn=collate)
        losses: list[Tensor] = []
        dices: dict[str, list[Tensor]] = {"box": [], "point": []}
        for batch in loader:
            embeddings = _encode(model, batch)
            prompts = {"box": box_prompts(batch, with_click=False), "point": click_prompts(batch)}
            for kind, prompt in prompts.items():
                logits, iou = model.decode(embeddings, *prompt)
                losses.append(segmentation_loss(logits, iou, batch.mask))
                overlap = mask_iou(upscale(logits[:, :1]), batch.mask)[:, 0]
                dices[kind].append(2 * overlap / (1 + overlap))
        return EpochRecord(
            epoch=self.epoch,
            train_loss=train_loss,
            val_loss=float(torch.cat(losses).mean()),
            val_dice_box=float(torch.cat(dices["box"]).mean()),
            val_dice_point=float(torch.cat(dices["point"]).mean()),
        )

    def _save(self, record: EpochRecord) -> None:
        state = TrainingState(
            model=self.model.state_dict(),
            ema=self.ema.state_dict(),
            optimizer=self.optimizer.state_dict(),
            step=self.step,
            epoch=self.epoch,
            best_loss=self.best_loss,
            config=config_document(self.config),
        )
        history = self.out_dir / HISTORY_FILE
        row = dataclasses.asdict(record)
        earlier = history.read_bytes() if record.epoch > 1 and history.exists() else b""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        if not earlier:
            writer.writeheader()
        writer.writerow(row)
        along = {history: earlier + text.getvalue().encode()}
        save_state(state, self.out_dir / STATE_FILE, along=along)

    def _resume(self) -> None:
        path = self.out_dir / STATE_FILE
        if not path.exists():
            return
        state = load_state(path)
        own = config_document(self.config)
        if state.config != own:
            keys = [key for key in {**own, **state.config} if state.config.get(key) != own.get(key)]
            raise WeightsError(
                f"{path} was made with another configuration, which differs in {', '.join(keys)}. "
                "Use the same one to resume, or another folder."
            )
        self.model.load_state_dict(state.model)
        self.ema.load_state_dict(state.ema)
        self.optimizer.load_state_dict(state.optimizer)
        self.step, self.epoch, self.best_loss = state.step, state.epoch, state.best_loss


def _encode(model: SamusHF, batch: TrainingSample) -> Tensor:
    """Embeddings of a batch, in the memory layout in which convolutions are fastest."""
    layout = torch.channels_last
    embeddings: Tensor = model.image_encoder(
        batch.image.contiguous(memory_format=layout),
        batch.high_frequency.contiguous(memory_format=layout),
    )
    return embeddings


def _parameter_groups(model: SamusHF, config: TrainConfig) -> list[dict[str, object]]:
    """Encoder and decoder rates; matrices and kernels decayed, vectors and tables not."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_encoder = name.startswith("image_encoder.")
        rate = config.learning_rate if is_encoder else config.decoder_learning_rate
        is_decayed = parameter.ndim >= 2 and not name.endswith(("bias_table", ".scale"))
        key = (rate, config.weight_decay if is_decayed else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def _averaging(decay: float) -> Callable[..., None]:
    """Moving average of numbers; integers, such as the offsets of attention windows, are copied."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: object) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, count)
            return
        for target, source in zip(averaged, current, strict=True):
            target.copy_(source)

    return update


def _schedule(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine to zero: factor of the peak rate, in (0, 1]."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
