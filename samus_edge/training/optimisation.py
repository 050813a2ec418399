"""Optimiser, its groups of parameters, and the schedule of its rate."""

import math

import torch

from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.config import TrainConfig

# The squared gradient is averaged over fewer steps than usual: a training has few thousands.
ADAMW_BETAS = (0.9, 0.99)
ADAM_BETAS = (0.9, 0.999)  # as the reference implementation of SAMUS


def make_optimizer(model: SamusHF, config: TrainConfig) -> torch.optim.Optimizer:
    """The configured optimiser of all trainable parameters, in groups of :func:`parameter_groups`.

    Raises:
        ValueError: if no parameter is trainable.
    """
    groups = parameter_groups(model, config)
    if not groups:
        raise ValueError(
            "the model has no trainable parameter. Name parts to train in the setting unfreeze, or "
            "set train_decoder: true."
        )
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, betas=ADAM_BETAS)
    return torch.optim.AdamW(groups, betas=ADAMW_BETAS)


def parameter_groups(model: SamusHF, config: TrainConfig) -> list[dict[str, object]]:
    """Trainable parameters by rate and decay.

    Encoder and decoder have rates of their own; matrices and kernels are decayed, vectors and tables
    are not.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_encoder = name.startswith("image_encoder.")
        rate = config.learning_rate if is_encoder else config.decoder_learning_rate
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
