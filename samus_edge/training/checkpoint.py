"""Resumable training state on disk, written atomically."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samus_edge.errors import WeightsError
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.training.config import differing_settings


@dataclass
class TrainingState:
    """Everything that a training needs to go on.

    Attributes:
        learner: model, averaged model, optimiser and their steps: `Learner.state_dict`.
        epoch: whole epochs done.
        epoch_losses: loss of each step of the epoch that is under way.
        best_loss: smallest validation loss so far.
        history: the fields of each `EpochRecord`.
        config: the training configuration as plain values.
        data: tells the cases from others: `TrainingData.fingerprint`.
        processes: number of processes that share each batch.
        seconds: time that it has taken.
    """

    learner: dict[str, Any]
    epoch: int
    epoch_losses: list[float]
    best_loss: float
    history: list[dict[str, Any]]
    config: dict[str, Any]
    data: str
    processes: int
    seconds: float = 0.0


def save_state(
    state: TrainingState, path: Path, *, along: Mapping[Path, bytes] | None = None
) -> None:
    """Write the state; an interruption leaves the previous file whole.

    Args:
        state: the state.
        path: its file.
        along: contents of other files that belong to this state, written only if it can be.

    Raises:
        OutputFileError: if a file cannot be written.
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
            f"{path} is not a training state of this version ({type(err).__name__}). "
            "Remove it to start afresh."
        ) from err


def check_state(
    state: TrainingState, path: Path, *, config: Mapping[str, Any], data: str, processes: int
) -> None:
    """Refuse the state of another training.

    Settings that change nothing but speed may differ.

    Args:
        state: the state.
        path: its file, for the message.
        config: the configuration to go on with, as plain values.
        data: fingerprint of the cases to go on with.
        processes: number of processes to go on with.

    Raises:
        WeightsError: naming everything that differs.
    """
    keys = differing_settings(config, state.config)
    problems = [f"another configuration, which differs in {', '.join(keys)}"] if keys else []
    if state.data != data:
        problems.append("other cases or another order of them")
    if state.processes != processes:
        problems.append(f"{state.processes} process(es) instead of {processes}")
    if problems:
        raise WeightsError(
            f"{path} was made with {', and with '.join(problems)}. "
            "Use the same to resume, or another folder."
        )


def remove_unfinished_files(folder: Path) -> None:
    """Remove what a killed process had not finished writing; a state may be gigabytes large."""
    for path in folder.glob(".samus-edge-*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
