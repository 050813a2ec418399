"""Rounding of a model's weights to values that take less room, before they are exported."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MIN_ROUNDED_SIZE = 256
"""Tensors with fewer elements keep float32: they take no room and vectors are sensitive."""

INT8_MAX = 127


@torch.no_grad()
def round_weights(model: nn.Module, *, int8: Iterable[str] = ()) -> None:
    """Round large parameters in place, to half precision or to an int8 grid.

    The graph then computes in float32 with exactly these values, and
    :func:`samus_edge.calibration.weight_storage.store_compactly` stores them without loss.

    Args:
        model: the model; vectors and small tensors stay as they are.
        int8: names of (out, in) matrices that go to an int8 grid, symmetric, one scale per output.

    Raises:
        ValueError: if a name in ``int8`` is no matrix of the model.
    """
    parameters = dict(model.named_parameters())
    names = set(int8)
    wrong = sorted(name for name in names if name not in parameters or parameters[name].ndim != 2)
    if wrong:
        raise ValueError(f"int8 must name matrices of the model, got {', '.join(wrong)}.")
    for name, parameter in parameters.items():
        if name in names:
            parameter.copy_(round_to_int8_grid(parameter))
        elif parameter.ndim >= 2 and parameter.numel() >= MIN_ROUNDED_SIZE:
            parameter.copy_(parameter.half().float())


def round_to_int8_grid(matrix: Tensor) -> Tensor:
    """Round a matrix to ``scale[row] * q``, q an integer in -127..127.

    Scales are themselves half-precision numbers, so ``scale * q`` is exact in float32 and both can
    be read back from the product.

    Args:
        matrix: (out, in), float32.

    Returns:
        (out, in), float32.
    """
    largest = matrix.abs().amax(dim=1, keepdim=True)
    scale = (largest / INT8_MAX).half().float()
    has_scale = scale > 0
    scale = torch.where(has_scale, scale, torch.ones_like(scale))
    steps = (matrix / scale).round().clamp(-INT8_MAX, INT8_MAX)
    # tiny scales have few bits; the row's largest value is 127 steps even so, or the scale could
    # not be read back
    is_largest = (matrix.abs() == largest) & has_scale
    return torch.where(is_largest, matrix.sign() * INT8_MAX, steps) * scale
