"""Resumable training state on disk, written atomically."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samus_edge.errors import WeightsError
from samus_edge.runtime.atomic_write import write_files_atomically


@dataclass
class TrainingState:
    """Everything that a training needs to go on.

    Attributes:
        model: state dict of the model in training.
        ema: state dict of the averaged model.
        optimizer: state dict of the optimiser.
        step: optimisation steps done.
        epoch: epochs done.
        best_loss: smallest validation loss so far.
        config: the training configuration as plain values.
    """

    model: dict[str, Any]
    ema: dict[str, Any]
    optimizer: dict[str, Any]
    step: int
    epoch: int
    best_loss: float
    config: dict[str, Any]


def save_state(state: TrainingState, path: Path) -> None:
    """Write the state; an interruption leaves the previous file whole."""
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    write_files_atomically({path: buffer.getvalue()})


def load_state(path: Path) -> TrainingState:
    """Read a state, without executing pickled code.

    Raises:
        WeightsError: if the file is not a training state.
    """
    try:
        # mmap spares a copy of the file in memory... 
        return TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, TypeError, ValueError) as err:
        raise WeightsError(
            f"{path} is not a training state: {err}. Remove it to start afresh."
        ) from err
