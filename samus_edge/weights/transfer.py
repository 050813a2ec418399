"""Converted checkpoint tensors into a model, with an account of every one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from samus_edge.errors import WeightsError
from samus_edge.modeling.model_parts import parts_of
from samus_edge.modeling.samus_hf import SamusHF


@dataclass(frozen=True)
class WeightAccount:
    """An account of every tensor of a model and of the checkpoint that it was started from.

    Attributes:
        source: Origin of the weights.
        taken: Model tensors copied unchanged.
        adapted: Model tensors computed from a checkpoint tensor, with how.
        new: Model tensors that keep their own initial value.
        left_over: Checkpoint tensors that no model tensor uses.
    """

    source: str
    taken: tuple[str, ...]
    adapted: dict[str, str]
    new: tuple[str, ...]
    left_over: tuple[str, ...]

    def summary(self) -> str:
        """Several lines for a log: counts, then every adapted tensor and the new ones by part."""
        lines = [
            f"weights from {self.source}: {len(self.taken)} tensors taken, "
            + f"{len(self.adapted)} adapted, {len(self.new)} new, {len(self.left_over)} left over"
        ]
        lines += [f"  adapted  {name}: {how}" for name, how in self.adapted.items()]
        parts: dict[str, int] = {}
        for name in self.new:
            part = _place(name)
            parts[part] = parts.get(part, 0) + 1
        lines += [f"  new      {part}: {count} tensors" for part, count in parts.items()]
        lines += [f"  left over  {name}" for name in self.left_over]
        return "\n".join(lines)


def _place(name: str) -> str:
    """Where a tensor is, with one line for all blocks: `image_encoder.blocks.*.adapter`."""
    levels = name.split(".")
    if len(levels) > 3 and levels[2].isdecimal():
        levels[2] = "*"
        return ".".join(levels[:4])
    return ".".join(levels[:2])


MAX_NAMED = 4
"""How many tensors an error names of each kind."""


@dataclass
class ConvertedTensors:
    """Checkpoint tensors under the names of our model.

    Attributes:
        tensors: Tensors by our names.
        adapted: How those were computed that are not as they were in the checkpoint.
        left_over: Names in the checkpoint that our model has no use for.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)


def transfer(
    model: SamusHF,
    converted: ConvertedTensors,
    *,
    path: Path,
    kind: str,
    may_be_new: tuple[str, ...] = (),
    takes_all: bool = False,
) -> WeightAccount:
    """Copy tensors into a model, in place; a checkpoint that does not fit changes nothing.

    Args:
        model: The model.
        converted: Tensors by the model's names.
        path: The checkpoint, for errors.
        kind: Kind of the checkpoint, for the account and for errors.
        may_be_new: Parts of the model, or beginnings of names, that may keep their initial values.
        takes_all: Whether a tensor that the model does not have is an error.

    Raises:
        WeightsError: naming tensors that are missing, unknown, of another shape or not finite.
    """
    target = model.state_dict()
    parts = parts_of(target)
    missing = [
        name
        for name in target
        if name not in converted.tensors
        and parts[name] not in may_be_new
        and not name.startswith(may_be_new)
    ]
    unused = [*converted.left_over, *(name for name in converted.tensors if name not in target)]
    misshapen = [
        f"{name} {tuple(value.shape)}, expected {tuple(target[name].shape)}"
        for name, value in converted.tensors.items()
        if name in target and value.shape != target[name].shape
    ]
    not_finite = [
        name
        for name, value in converted.tensors.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    problems = [
        f"{problem}: {_named(names)}"
        for problem, names in (
            ("missing", missing),
            ("unknown", unused if takes_all else []),
            ("of another shape", misshapen),
            ("with NaN or infinite values", not_finite),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"{path} is not {kind} that fits the model; {'; '.join(problems)}. "
            "Give the whole file, as it was published or saved."
        )
    used: Mapping[str, Tensor] = {
        name: value for name, value in converted.tensors.items() if name in target
    }
    model.load_state_dict({**target, **used})
    return WeightAccount(
        source=f"{kind} ({path.name})",
        taken=tuple(name for name in used if name not in converted.adapted),
        adapted={name: how for name, how in converted.adapted.items() if name in used},
        new=tuple(name for name in target if name not in used),
        left_over=tuple(unused),
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{len(names)} ({', '.join(names[:MAX_NAMED])}{more})"
