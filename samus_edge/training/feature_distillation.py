"""Distillation of a teacher's image embeddings into an image encoder, before masks are learned."""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from samus_edge.data.augmentation import AugmentationConfig, augment_appearance
from samus_edge.errors import JobInterruptedError, WeightsError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.atomic_write import write_files_atomically
from samus_edge.training.averaging import averaged_copy
from samus_edge.training.config import TrainConfig
from samus_edge.training.objective import set_training_mode
from samus_edge.training.optimisation import make_optimizer, schedule_factor, set_rates
from samus_edge.training.teacher import UInt8Image
from samus_edge.training.teacher_views import TeacherViews

ORDER_STREAM = 11  # of random numbers, apart from those of views and of the training on masks
APPEARANCE_STREAM = 12
MIN_SIDE_PX = 32
HISTORY_FILE = "history.csv"


@dataclasses.dataclass(frozen=True)
class DistillationStep:
    """What a step did.

    Attributes:
        step: steps done, this one included.
        total_steps: steps of the whole distillation.
        loss: its loss, as a fraction of the variance of the teacher's embeddings.
    """

    step: int
    total_steps: int
    loss: float


class FeatureDistillation:
    """An encoder learns to give a teacher's embeddings of views whose appearance is changed.

    The loss is the squared error over the variance of the teacher's embeddings: 1 for an encoder
    that knows no more than their mean. The encoder ends with the moving average of its weights. On
    the CPU, a distillation that was stopped at any moment and resumed ends with the same bits as one
    that was not.

    Args:
        model: the model, whose encoder learns, in place; what does not require a gradient stays.
        config: the training configuration; the schedule is a cosine and the optimiser AdamW,
            whatever the training on masks uses.
        views: the views; only read by :meth:`run`, and not if a state says that all is done.
        state_path: file of the state; one that is there is resumed.
        settings: tells this distillation from others, JSON values by name.

    Raises:
        ValueError: if there are fewer views than a batch holds.
        WeightsError: if the state is damaged or of another distillation.
    """

    def __init__(
        self,
        model: SamusHF,
        config: TrainConfig,
        views: TeacherViews,
        state_path: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self.config = config
        self.views = views
        self.state_path = state_path
        self.settings = dict(settings)
        self.steps_per_epoch = len(views) // config.batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"feature distillation needs at least batch_size {config.batch_size} views, got "
                f"{len(views)}. Raise distillation.views or lower batch_size."
            )
        self.device = next(model.parameters()).device
        # torch's annotations of Module.to leave memory_format out
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.encoder = model.image_encoder
        self._ema = averaged_copy(self.encoder, config.distillation.ema_decay)
        self._optimizer = make_optimizer(
            model,
            dataclasses.replace(
                config, optimizer="adamw", learning_rate=config.distillation.learning_rate
            ),
        )
        self.steps_done = 0
        self.skipped_steps = 0
        self.epoch_losses: list[float] = []
        self._losses: list[float] = []  # of the steps of the epoch under way
        self._resume()

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole distillation."""
        return self.config.distillation.epochs * self.steps_per_epoch

    @property
    def is_done(self) -> bool:
        """Whether :meth:`run` has no step left to do."""
        return self.steps_done == self.total_steps

    def run(
        self,
        report: Callable[[int, float], None] = lambda epoch, loss: None,
        progress: Callable[[DistillationStep], None] = lambda step: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Distil to the configured number of epochs; then the model has the averaged encoder.

        Args:
            report: called after each epoch with its number, from 1, and its mean loss.
            progress: called after each step.
            should_stop: asked after each step; the distillation ends there if it says yes.

        Raises:
            JobInterruptedError: if it was asked to stop; the state was saved before.
            OutputFileError: if the state cannot be written; the previous one is whole.
        """
        variance = 0.0 if self.is_done else self.views.variance()
        while not self.is_done:
            self._run_epoch(variance, progress, should_stop)
            self.epoch_losses.append(float(np.mean(self._losses)))
            self._losses = []
            self._save()
            report(len(self.epoch_losses), self.epoch_losses[-1])
        self.encoder.load_state_dict(self._ema.module.state_dict())

    def _run_epoch(
        self,
        variance: float,
        progress: Callable[[DistillationStep], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """The steps of an epoch that are not done yet."""
        config, epoch = self.config, len(self.epoch_losses)
        rng = np.random.default_rng((config.seed, ORDER_STREAM, epoch))
        order = rng.permutation(len(self.views))
        while len(self._losses) < self.steps_per_epoch:
            start = len(self._losses) * config.batch_size
            chosen = [int(index) for index in order[start : start + config.batch_size]]
            loss = self._step(chosen, epoch, variance)
            self._losses.append(loss)
            progress(DistillationStep(self.steps_done, self.total_steps, loss))
            if should_stop():
                self._save()
                raise JobInterruptedError(
                    f"interrupted after step {self.steps_done} of {self.total_steps} of the feature "
                    f"distillation. {self.state_path.parent} holds the state; run the same command "
                    "again to go on."
                )
            interval = config.checkpoint_interval_steps
            is_due = interval and self.steps_done % interval == 0
            if is_due and len(self._losses) < self.steps_per_epoch:
                self._save()

    def _step(self, chosen: list[int], epoch: int, variance: float) -> float:
        """One optimisation step on the chosen views; skipped if its gradient is not finite."""
        config = self.config
        image, high_frequency = self._inputs(chosen, epoch)
        target = torch.stack([self.views.embedding(index) for index in chosen])
        factor = schedule_factor("cosine", self.steps_done, config.warmup_steps, self.total_steps)
        set_rates(self._optimizer, factor)
        set_training_mode(self.encoder)
        enabled = config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            embeddings: Tensor = self.encoder(image, high_frequency)
        error = embeddings.float() - target.to(self.device).float()
        loss = error.square().mean() / variance
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = clip_grad_norm_(self.encoder.parameters(), config.gradient_clip or math.inf)
        if torch.isfinite(norm):
            self._optimizer.step()
        else:
            self.skipped_steps += 1
        self.steps_done += 1
        self._ema.update_parameters(self.encoder)
        return float(loss.detach())

    def _inputs(self, chosen: list[int], epoch: int) -> tuple[Tensor, Tensor]:
        """Images and high-frequency images, both (B, 1, S, S), of views with a new appearance."""
        config, model = self.config, self.model
        images, high_frequencies = [], []
        for index in chosen:
            rng = np.random.default_rng((config.seed, APPEARANCE_STREAM, epoch, index))
            frame = _with_new_appearance(self.views.frame(index), config.augmentation, rng)
            frames = torch.from_numpy(frame)[None].to(self.device)
            images.append(model.input_scaling(frames))
            high_frequencies.append(model.high_frequency(frames) / 255.0)
        layout = torch.channels_last
        return (
            torch.cat(images).contiguous(memory_format=layout),
            torch.cat(high_frequencies).contiguous(memory_format=layout),
        )

    def _save(self) -> None:
        """Save the state and the history that belongs to it."""
        state = {
            "encoder": self.encoder.state_dict(),
            "ema": self._ema.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps_done": self.steps_done,
            "skipped_steps": self.skipped_steps,
            "epoch_losses": self.epoch_losses,
            "losses": self._losses,
            "settings": self.settings,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        rows = [f"{epoch},{loss!r}\n" for epoch, loss in enumerate(self.epoch_losses, start=1)]
        history = "".join(["epoch,loss\n", *rows])
        write_files_atomically(
            {
                self.state_path: buffer.getvalue(),
                self.state_path.with_name(HISTORY_FILE): history.encode(),
            }
        )

    def _resume(self) -> None:
        path = self.state_path
        if not path.exists():
            return
        state = _load_state(path)
        stored = state["settings"]
        differing = [
            name
            for name in {**self.settings, **stored}
            if stored.get(name) != self.settings.get(name)
        ]
        if differing:
            raise WeightsError(
                f"{path} is of a feature distillation with another {', another '.join(differing)}. "
                "Use the same to resume, or another folder."
            )
        self.encoder.load_state_dict(state["encoder"])
        self._ema.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done, self.skipped_steps = state["steps_done"], state["skipped_steps"]
        self.epoch_losses, self._losses = state["epoch_losses"], state["losses"]


def _with_new_appearance(
    frame: UInt8Image, augmentation: AugmentationConfig, rng: np.random.Generator
) -> UInt8Image:
    """The frame as another scanner might show it: perhaps smaller, with other grey levels."""
    if rng.random() < augmentation.resolution_probability:
        factor = rng.uniform(augmentation.min_resolution, 1.0)
        height, width = (max(MIN_SIDE_PX, round(side * factor)) for side in frame.shape)
        resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        frame = np.asarray(resized, dtype=np.uint8)
    return augment_appearance(frame, augmentation, rng)


def _load_state(path: Path) -> dict[str, Any]:
    """Read a state, without executing pickled code.

    Raises:
        WeightsError: if the file is not the state of a feature distillation.
    """
    advice = "Remove it to start afresh."
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises half a dozen types for a file that it did not write
        raise WeightsError(
            f"{path} is not the state of a feature distillation ({type(err).__name__}). {advice}"
        ) from err
    if not isinstance(state, dict) or "epoch_losses" not in state or "settings" not in state:
        raise WeightsError(f"{path} is the state of something else. {advice}")
    return state
