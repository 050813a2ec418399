"""Resumable training state on disk, written atomically."""

import io
from collections.abc import Mapping
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


def save_state(
    state: TrainingState, path: Path, *, along: Mapping[Path, bytes] | None = None
) -> None:
    """Write the state; an interruption leaves the previous file whole.

    Args:
        state: the state.
        path: its file.
        along: contents of other files that belong to this state, written only if it can be.
    """
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    write_files_atomically({path: buffer.getvalue(), **(along or {})})


def load_state(path: Path) -> TrainingState:
    """Read a state, without executing pickled code.

    Raises:
        WeightsError: if the file is not a training state.
    """
    try:
        return TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as err:  # torch raises half a dozen types for a file that it did not write
        raise WeightsError(
            f"{path} is not a training state ({type(err).__name__}). Remove it to start afresh."
        ) from err
