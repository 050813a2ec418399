"""A model that learns: one optimisation step after the other, and the average of its weights."""

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.autograd import grad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from samus_edge.errors import BackendError, BadArgumentError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.backends.backend import default_threads
from samus_edge.training.batches import share_threads, split_batch, to_device
from samus_edge.training.config import TrainConfig
from samus_edge.training.objective import MaskObjective, set_training_mode
from samus_edge.training.training_samples import TrainingSample

# The squared gradient is averaged over fewer steps than usual: a training has few thousands.
ADAMW_BETAS = (0.9, 0.99)
ADAM_BETAS = (0.9, 0.999)  # as the reference implementation of SAMUS


def make_optimizer(model: SamusHF, config: TrainConfig) -> torch.optim.Optimizer:
    """The configured optimiser of all trainable parameters, in groups of :func:`parameter_groups`.

    Raises:
        BadArgumentError: if no parameter is trainable.
    """
    groups = parameter_groups(model, config)
    if not groups:
        raise BadArgumentError(
            "the model has no trainable parameter. Name parts to train in the setting unfreeze, or "
            "set train_decoder: true."
        )
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, betas=ADAM_BETAS, fused=True)
    return torch.optim.AdamW(groups, betas=ADAMW_BETAS, fused=True)


def parameter_groups(model: SamusHF, config: TrainConfig) -> list[dict[str, object]]:
    """Trainable parameters by rate and decay.

    Encoder, decoder and lesion proposer have rates of their own; matrices and kernels are decayed,
    vectors and tables are not.
    """
    rates = {
        "image_encoder": config.learning_rate,
        "lesion_proposer": config.proposer_learning_rate,
    }
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = rates.get(name.partition(".")[0], config.decoder_learning_rate)
        is_decayed = parameter.ndim >= 2 and not name.endswith(("bias_table", ".scale"))
        key = (rate, config.weight_decay if is_decayed else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the rate of every group to a factor of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def schedule_factor(schedule: str, step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine to zero or nothing: factor of the peak rate, in (0, 1].

    Args:
        schedule: "cosine" or "constant".
        step: steps done.
        warmup_steps: steps of warm-up.
        total_steps: steps of the whole training.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
PATIENCE = timedelta(days=1)  # the others wait while the first one decodes and validates


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: number of this process, from 0, which alone writes and validates.
        count: number of processes.
        device: the device of this process.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes and validates."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes of a tensor, the same for each; any shape, floating point."""
        if self.count == 1:
            return values
        total = values.to(self.device)
        distributed.all_reduce(total)
        return (total / self.count).to(values.device)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Lets the first process go through the block alone, and then the others."""
        if self.count > 1 and not self.is_first:
            distributed.barrier()
        yield
        if self.count > 1 and self.is_first:
            distributed.barrier()


@contextmanager
def training_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun has started; without torchrun this one is alone.

    Args:
        device: "cpu" or "cuda"; with "cuda" each process takes the GPU of its local rank.

    Yields:
        This process among them.

    Raises:
        BackendError: if there is no such device.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda" and torch.cuda.device_count() <= local_rank:
        raise BackendError(
            f"device: cuda needs {local_rank + 1} NVIDIA GPU(s) that this build of torch can use, "
            f"found {torch.cuda.device_count()}. Train with device: cpu, start no more processes "
            "than there are GPUs, or install a CUDA build of torch."
        )
    _keep_freed_memory()
    this = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # what torchrun tells its processes
        yield Processes(device=this)
        return
    if device == "cuda":
        torch.cuda.set_device(this)
    distributed.init_process_group(BACKENDS[device], timeout=PATIENCE)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), this)
    finally:
        distributed.destroy_process_group()


# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def _keep_freed_memory() -> None:
    """Have the C library keep what is freed, for the next step, which asks for as much again.

    Otherwise large tensors come from the system each time, as pages that it has to fill with zeros
    first. Other C libraries than glibc are left alone.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(M_TOP_PAD, 2**26)


def averaged_copy(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of a model whose weights and buffers follow the model's.

    Args:
        model: the model.
        decay: decay per update, in [0, 1); 0 copies the model.

    Returns:
        The copy; call `update_parameters(model)` after each step.
    """
    return AveragedModel(model, multi_avg_fn=_moving_average(decay), use_buffers=True)


def averaged_model(averaged: AveragedModel) -> SamusHF:
    """The SAMUS-HF that :func:`averaged_copy` holds."""
    return cast(SamusHF, averaged.module)  # a deep copy of the model


def _moving_average(decay: float) -> Callable[..., None]:
    """Moving average of numbers; integers, such as the offsets of attention windows, are copied."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: object) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, count)
            return
        for target, source in zip(averaged, current, strict=True):
            target.copy_(source)

    return update


class Learner:
    """Model, averaged model and optimiser, all of which are the same on each process.

    Batch normalisation sees the images of one pass on one process; its running statistics are those
    of the first process.

    Args:
        objective: the objective. Its model is moved to the device; parameters that require no
            gradient stay frozen.
        total_steps: steps of the whole training, for the schedule.
        processes: this process among those that train together.

    Raises:
        BadArgumentError: if nothing is trainable.
    """

    def __init__(self, objective: MaskObjective, total_steps: int, processes: Processes) -> None:
        model, self.config = objective.model, objective.config
        self.total_steps = total_steps
        self.device = processes.device
        model.to(self.device)
        # torch's annotations of Module.to leave memory_format out
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self._ema = averaged_copy(model, self.config.ema_decay)
        self.averaged = averaged_model(self._ema)
        self.optimizer = make_optimizer(model, self.config)
        self.steps_done = 0
        self.skipped_steps = 0
        self.objective = objective
        self._threads: ThreadPoolExecutor | None = None
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
        shares = self._shares()
        for number in range(passes):
            batch = to_device(next(batches), self.device)
            seed = (config.seed, self.steps_done, 1 + number)
            if shares > 1:
                total += self._learn_in_shares(split_batch(batch, shares), seed)
                continue
            with self._gradients_exchanged(is_last=number == passes - 1):
                loss = self._objective(batch, np.random.default_rng(seed)) / passes
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

    def _shares(self) -> int:
        """Parts of a batch that are learned from at the same time."""
        is_whole = any(isinstance(m, _BatchNorm) and m.training for m in self.model.modules())
        if is_whole or self.device.type != "cpu" or self._objective is not self.objective:
            return 1
        return self.config.shares or default_threads()

    def _learn_in_shares(self, shares: Sequence[TrainingSample], seed: tuple[int, ...]) -> float:
        """Add the gradients of a batch, each part of which a thread takes; its share of the loss.

        Each part is given the same kinds of prompts.
        """
        count = sum(len(share.image) for share in shares)
        parameters = [p for p in self.model.parameters() if p.requires_grad]

        def learn(share: TrainingSample) -> tuple[float, tuple[Tensor | None, ...]]:
            loss = self._objective(share, np.random.default_rng(seed))
            loss = loss * (len(share.image) / count / self.config.accumulation_steps)
            # not backward(), whose sums in .grad the threads would get in each other's way with
            return float(loss.detach()), grad(loss, parameters, allow_unused=True)

        if self._threads is None:
            self._threads = share_threads(len(shares))
        found = list(self._threads.map(learn, shares))
        for parameter, *gradients in zip(parameters, *(g for _, g in found), strict=True):
            for gradient in gradients:
                if gradient is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = gradient
                else:
                    parameter.grad += gradient
        return sum(loss for loss, _ in found)

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
