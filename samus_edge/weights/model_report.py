"""What `samus-edge info` reports about a model."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samus_edge.modeling.builders import build_samus_hf
from samus_edge.modeling.model_parts import PartSize, part_sizes, select_trainable
from samus_edge.weights.model_file import ModelSettings, load_model, settings_of


@dataclass(frozen=True)
class ModelReport:
    """A model's parts.

    Attributes:
        source: the weights file; None for an architecture alone.
        settings: the architecture and its switches.
        parts: parameters of each part; trainable are those that a training changes by default.
    """

    source: Path | None
    settings: ModelSettings
    parts: tuple[PartSize, ...]

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def trainable(self) -> int:
        """Those of them that a training changes by default."""
        return sum(part.trainable for part in self.parts)

    @property
    def title(self) -> str:
        """One line that says what the model is."""
        switches = ", ".join(
            f"{name} {'on' if getattr(self.settings, name) else 'off'}" for name in ("hf", "gate")
        )
        source = "" if self.source is None else f"{self.source}: "
        return f"{source}{self.settings.arch}, {switches}"

    def to_json(self) -> dict[str, Any]:
        """As the document that `samus-edge info --json` prints."""
        return {
            "weights": None if self.source is None else str(self.source),
            **dataclasses.asdict(self.settings),
            "parts": [dataclasses.asdict(part) for part in self.parts],
            "parameters": self.parameters,
            "trainable": self.trainable,
        }


def report_of_arch(arch: str) -> ModelReport:
    """Report an architecture with both switches on, without holding its weights.

    Raises:
        ValueError: if there is no such architecture.
    """
    with torch.device("meta"):
        model = build_samus_hf(arch)
    select_trainable(model)
    return ModelReport(None, ModelSettings(arch, True, True), tuple(part_sizes(model)))


def report_of_weights(path: Path) -> ModelReport:
    """Report a weights file of samus-edge.

    Raises:
        WeightsError: if the file is missing, damaged, or not one of samus-edge.
    """
    model = load_model(path)
    select_trainable(model)
    return ModelReport(path, settings_of(model), tuple(part_sizes(model)))
