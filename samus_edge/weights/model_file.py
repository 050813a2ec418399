"""Our own weights on disk: safetensors with the model's settings in the metadata."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samus_edge.archs import ARCHS
from samus_edge.errors import WeightsError
from samus_edge.modeling.model_parts import (
    ADDED_PARTS,
    PartSize,
    arch_of,
    build_samus_hf,
    part_sizes,
    select_trainable,
)
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.weights.checkpoint_file import CheckpointFile, read_safetensors
from samus_edge.weights.transfer import ConvertedTensors, WeightAccount, transfer

FORMAT = "samus-edge-weights"

TINY_STEM_KERNEL = "image_encoder.cnn_branch.steps.0.conv.weight"
"""Of `tiny`; its input channels are grey and, with the switch `hf`, the high-frequency image."""


@dataclass(frozen=True)
class ModelSettings:
    """What model a weights file holds.

    Attributes:
        arch: one of :data:`samus_edge.archs.ARCHS`.
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.
    """

    arch: str
    hf: bool
    gate: bool


def save_model(model: SamusHF, path: Path, settings: Mapping[str, Any]) -> None:
    """Write weights atomically.

    Args:
        model: the model.
        path: a `.safetensors` file.
        settings: at least `arch`, `hf` and `gate`, kept as JSON in the file's metadata.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": FORMAT, "settings": json.dumps(dict(settings))}
    write_files_atomically({path: save(tensors, metadata=metadata)})


def load_model(path: Path) -> SamusHF:
    """Build the model that a file describes, with its weights, in evaluation mode.

    Raises:
        WeightsError: if the file is missing, damaged, or not written by :func:`save_model`.
    """
    tensors, metadata = read_safetensors(path)
    checkpoint = CheckpointFile(path, tensors, metadata)
    if not is_own(checkpoint):
        raise WeightsError(
            f"{path} is not a samus-edge weights file: the format in its metadata is "
            f"{metadata.get('format')!r}, expected {FORMAT!r}. Train with `samus-edge train`, or "
            "make one from a checkpoint with `samus-edge convert`."
        )
    settings = read_settings(checkpoint)
    model = build_samus_hf(settings.arch, hf=settings.hf, gate=settings.gate)
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in own]
    problems += [
        f"{name} {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        raise WeightsError(f"{path} does not fit the model: {'; '.join(problems)}.")
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def is_own(checkpoint: CheckpointFile) -> bool:
    """Whether a checkpoint was written by :func:`save_model`."""
    return checkpoint.metadata.get("format") == FORMAT


def read_settings(checkpoint: CheckpointFile) -> ModelSettings:
    """What model our own weights are of.

    Raises:
        WeightsError: if the file does not say it, or names an unknown architecture.
    """
    path, document = checkpoint.path, checkpoint.metadata.get("settings", "")
    try:
        settings = json.loads(document)
        arch, hf, gate = settings["arch"], settings["hf"], settings["gate"]
    except (ValueError, KeyError, TypeError) as err:
        raise WeightsError(
            f"{path} does not say what model it holds: its settings are {document!r:.80}, "
            "expected JSON with arch, hf and gate."
        ) from err
    if arch not in ARCHS:
        raise WeightsError(
            f"{path} holds the architecture {arch!r}; this version knows {', '.join(ARCHS)}."
        )
    return ModelSettings(arch, bool(hf), bool(gate))


def settings_of(model: SamusHF) -> ModelSettings:
    """What a model is, by its modules and tensors."""
    return ModelSettings(arch_of(model), **_switches(model.state_dict()))


def load_own(model: SamusHF, checkpoint: CheckpointFile) -> WeightAccount:
    """Copy our own weights into a model, in place, which may have more switches on than they had.

    What such a switch adds is new and adds nothing until it is trained.

    Raises:
        WeightsError: if the weights do not fit, or were trained with a switch that is off now.
    """
    target = model.state_dict()
    trained, wanted = _switches(checkpoint.tensors), _switches(target)
    lost = [name for name in trained if trained[name] and not wanted[name]]
    if lost:
        raise WeightsError(
            f"{checkpoint.path} was trained with {' and '.join(lost)}, which the model to be "
            "started has switched off. Switch it on."
        )
    converted = ConvertedTensors(dict(checkpoint.tensors))
    kernel = converted.tensors.get(TINY_STEM_KERNEL)
    if kernel is not None and wanted["hf"] and not trained["hf"]:
        widened = torch.cat((kernel, torch.zeros_like(kernel)), dim=1)
        converted.tensors[TINY_STEM_KERNEL] = widened
        converted.adapted[TINY_STEM_KERNEL] = "a zero kernel added for the high-frequency image"
    return transfer(
        model,
        converted,
        path=checkpoint.path,
        kind="a samus-edge weights file",
        new_parts=ADDED_PARTS,
    )


def _switches(tensors: Mapping[str, Tensor]) -> dict[str, bool]:
    """The switches of the model that a state dict is of."""
    kernel = tensors.get(TINY_STEM_KERNEL)
    is_tiny_hf = kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 2
    return {
        "hf": is_tiny_hf or "image_encoder.cnn_branch.hf_conv.weight" in tensors,
        "gate": "image_encoder.cnn_branch.gate.scale" in tensors,
    }


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
