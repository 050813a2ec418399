"""Checkpoints of any origin as plain tensors, without executing pickled code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from samus_edge.errors import WeightsError

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which trainers keep a state dict beside other things."""

PARALLEL_PREFIX = "module."
"""What DataParallel puts before every name."""

TRAINING_STATE_KEYS = {"best_loss", "config"}
"""Some of the keys of :class:`samus_edge.training.checkpoint.TrainingState`."""

_ADVICE = (
    "Give the path of a checkpoint: lite_medsam.pth, sam_vit_b_01ec64.pth, one of SAMUS, "
    "or weights of samus-edge (.safetensors)."
)


@dataclass(frozen=True)
class CheckpointFile:
    """The content of a checkpoint.

    Attributes:
        path: Path of the file.
        tensors: The state dict, without a prefix that all names share through DataParallel.
        metadata: Text beside the tensors; safetensors alone have it.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_checkpoint(path: Path) -> CheckpointFile:
    """Read safetensors, or a PyTorch checkpoint that is a state dict or wraps one.

    Raises:
        WeightsError: if there is no such file, or it holds anything but plain tensors.
    """
    if not path.is_file():
        problem = "is no file" if path.exists() else "does not exist"
        raise WeightsError(f"There is no checkpoint at {path}: it {problem}. {_ADVICE}")
    if _looks_like_safetensors(path):
        tensors, metadata = read_safetensors(path)
    else:
        tensors, metadata = _unwrap(_read_torch(path), path), {}
    if tensors and all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        tensors = {name.removeprefix(PARALLEL_PREFIX): value for name, value in tensors.items()}
    return CheckpointFile(path, tensors, metadata)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        WeightsError: if the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (OSError, SafetensorError) as err:
        raise WeightsError(f"{path} cannot be read as safetensors: {err}") from err


def _looks_like_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors do: eight bytes of length, then a JSON object."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as err:
        raise WeightsError(f"{path} cannot be read ({err.strerror or err}).") from err


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises half a dozen types for a file that is not a checkpoint
        raise WeightsError(
            f"{path} is not a PyTorch checkpoint of plain tensors ({type(err).__name__}). {_ADVICE}"
        ) from err


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint's content."""
    if isinstance(content, dict) and TRAINING_STATE_KEYS <= content.keys():
        raise WeightsError(
            f"{path} is the state of a training, which that training resumes. "
            "Use the best.safetensors beside it."
        )
    candidates = [content]
    if isinstance(content, dict):
        candidates += [content[key] for key in WRAPPER_KEYS if key in content]
    for candidate in candidates:
        if (
            isinstance(candidate, dict)
            and candidate
            and all(isinstance(key, str) for key in candidate)
            and all(isinstance(value, Tensor) for value in candidate.values())
        ):
            return dict(candidate)
    raise WeightsError(f"{path} holds no plain state dict, got {type(content).__name__}. {_ADVICE}")
