"""Moving average of a model's weights."""

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from samus_edge.modeling.samus_hf import SamusHF


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
