"""A model that learns: one optimisation step after the other, and the average of its weights."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from samus_edge.data.training_samples import TrainingSample
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.averaging import averaged_copy, averaged_model
from samus_edge.training.batches import to_device
from samus_edge.training.config import TrainConfig
from samus_edge.training.objective import TrainingObjective, set_training_mode
from samus_edge.training.optimisation import make_optimizer, schedule_factor, set_rates
from samus_edge.training.processes import Processes


class Learner:
    """Model, averaged model and optimiser, all of which are the same on each process.

    Batch normalisation sees the images of one pass on one process; its running statistics are those
    of the first process.

    Args:
        model: the model, moved to the device; what does not require a gradient stays frozen.
        config: the training configuration.
        total_steps: steps of the whole training, for the schedule.
        processes: this process among those that train together.

    Raises:
        ValueError: if nothing is trainable.
    """

    def __init__(
        self, model: SamusHF, config: TrainConfig, total_steps: int, processes: Processes
    ) -> None:
        self.config = config
        self.total_steps = total_steps
        self.device = processes.device
        model.to(self.device)
        # torch's annotations of Module.to leave memory_format out
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self._ema = averaged_copy(model, config.ema_decay)
        self.averaged = averaged_model(self._ema)
        self.optimizer = make_optimizer(model, config)
        self.steps_done = 0
        self.skipped_steps = 0
        objective = TrainingObjective(model, config)
        self._objective: Callable[..., Tensor] = objective
        if processes.count > 1:
            # a step without a second decoding, for one, uses no mask prompt
            self._objective = DistributedDataParallel(objective, find_unused_parameters=True)

    @property
    def learning_rate(self) -> float:
        """Rate of the encoder in the last step."""
        return self.config.learning_rate * self._factor(self.steps_done - 1)

    def step(self, batches: Iterator[TrainingSample]) -> float:
        """One optimisation step; skipped, and counted so, if its gradient is not finite.

        Args:
            batches: gives one batch for each pass, `accumulation_steps` in all.

        Returns:
            Mean loss of the passes on this process.
        """
        config, passes = self.config, self.config.accumulation_steps
        set_rates(self.optimizer, self._factor(self.steps_done))
        set_training_mode(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for number in range(passes):
            batch = to_device(next(batches), self.device)
            rng = np.random.default_rng((config.seed, self.steps_done, 1 + number))
            with self._gradients_exchanged(is_last=number == passes - 1):
                loss = self._objective(batch, rng) / passes
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += float(loss.detach())
        norm = clip_grad_norm_(self.model.parameters(), config.gradient_clip or math.inf)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            self.skipped_steps += 1
        self.steps_done += 1
        self._ema.update_parameters(self.model)
        return total

    def state_dict(self) -> dict[str, Any]:
        """All that changes, for :meth:`load_state_dict`."""
        return {
            "model": self.model.state_dict(),
            "ema": self._ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps_done": self.steps_done,
            "skipped_steps": self.skipped_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self._ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_done = state["steps_done"]
        self.skipped_steps = state["skipped_steps"]

    def _factor(self, step: int) -> float:
        config = self.config
        return schedule_factor(config.schedule, step, config.warmup_steps, self.total_steps)

    def _gradients_exchanged(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once for each step, in its last pass."""
        if isinstance(self._objective, DistributedDataParallel) and not is_last:
            return self._objective.no_sync()
        return contextlib.nullcontext()
