"""Our own weights on disk: safetensors with the model's settings in the metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from samus_edge.archs import ARCHS
from samus_edge.errors import WeightsError
from samus_edge.modeling.model_parts import (
    ADDED_PARTS,
    PartSize,
    arch_of,
    build_samus_hf,
    fold_constants,
    part_sizes,
    select_trainable,
)
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.bundle.records import JsonValue, from_json, one_of, parse_json, to_json
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.weights.checkpoint_file import CheckpointFile, read_safetensors
from samus_edge.weights.transfer import ConvertedTensors, WeightAccount, transfer

FORMAT = "samus-edge-weights"
_KIND = "a samus-edge weights file"

TINY_STEM_KERNEL = "image_encoder.cnn_branch.steps.0.conv.weight"
"""Of `tiny`; its input channels are grey and, with the switch `hf`, the high-frequency image."""

TINY_FOLDED_BIAS = "image_encoder.patch_embed.0.conv.bias"
"""Of `tiny`, which has it once its normalisations are folded."""

VIT_POSITIONS = "image_encoder.blocks.0.attn.rel_pos_h"
"""Of `vit_b`; it has three axes once it is folded."""


@dataclass(frozen=True)
class ModelSettings:
    """The model that a weights file holds.

    Attributes:
        arch: One of :data:`samus_edge.archs.ARCHS`.
        hf: Whether the high-frequency image enters the CNN branch.
        gate: Whether the multi-scale attention gate follows the CNN branch.
        proposer: Whether a head proposes lesions without a prompt.
        extra: Other settings in the file, those of its training.
    """

    arch: Annotated[str, one_of(ARCHS)]
    hf: bool
    gate: bool
    proposer: bool = False
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


def save_model(model: SamusHF, path: Path, settings: Mapping[str, Any]) -> None:
    """Write weights atomically.

    Args:
        model: The model.
        path: A `.safetensors` file.
        settings: At least `arch`, `hf` and `gate`, kept as JSON in the file's metadata.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    known = {**settings, "proposer": settings_of(model).proposer}
    metadata = {"format": FORMAT, "settings": json.dumps(known)}
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
    model = build_samus_hf(
        settings.arch, hf=settings.hf, gate=settings.gate, proposer=settings.proposer
    )
    if is_folded(tensors):
        fold_constants(model)
    transfer(model, ConvertedTensors(tensors), path=path, kind=_KIND, takes_all=True)
    return model.eval().requires_grad_(False)


def is_own(checkpoint: CheckpointFile) -> bool:
    """Whether a checkpoint was written by :func:`save_model`."""
    return checkpoint.metadata.get("format") == FORMAT


def read_settings(checkpoint: CheckpointFile) -> ModelSettings:
    """The settings of the model in a file of our own weights.

    Raises:
        WeightsError: if they are not in the file, or name an unknown architecture.
    """
    path, document = checkpoint.path, checkpoint.metadata.get("settings", "")
    try:
        return from_json(ModelSettings, parse_json(document.encode()))
    except ValueError as err:
        raise WeightsError(
            f"{path} does not say what model it holds ({err}): its settings are {document!r:.80}, "
            "expected JSON with arch, hf and gate."
        ) from err


def settings_of(model: SamusHF) -> ModelSettings:
    """A model's settings, read from its modules and tensors."""
    switches = switches_of(model.state_dict())
    return ModelSettings(
        arch_of(model), switches["hf"], switches["gate"], proposer=switches["proposer"]
    )


def load_own(model: SamusHF, checkpoint: CheckpointFile) -> WeightAccount:
    """Copy our own weights into a model, in place, which may have more switches on than they had.

    The parts of such a switch are new and change no mask until they are trained. A lesion proposer
    that the model does not have is left over.

    Raises:
        WeightsError: if the weights do not fit, or were trained with a switch that is off now.
    """
    target = model.state_dict()
    trained, wanted = switches_of(checkpoint.tensors), switches_of(target)
    lost = [name for name in ("hf", "gate") if trained[name] and not wanted[name]]
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
        kind=_KIND,
        may_be_new=ADDED_PARTS,
    )


def is_folded(tensors: Mapping[str, Any]) -> bool:
    """Whether a state dict is of a model after `fold_constants`."""
    positions = tensors.get(VIT_POSITIONS)
    return TINY_FOLDED_BIAS in tensors or (positions is not None and positions.ndim == 3)


def switches_of(tensors: Mapping[str, Any]) -> dict[str, bool]:
    """The switches of the model of a state dict, of tensors or arrays: hf, gate, proposer."""
    kernel = tensors.get(TINY_STEM_KERNEL)
    is_tiny_hf = kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 2
    return {
        "hf": is_tiny_hf or "image_encoder.cnn_branch.hf_conv.weight" in tensors,
        "gate": "image_encoder.cnn_branch.gate.scale" in tensors,
        "proposer": "lesion_proposer.reduce.weight" in tensors,
    }


@dataclass(frozen=True)
class ModelReport:
    """A model's parts.

    Attributes:
        source: The weights file; None for an architecture alone.
        settings: The architecture and its switches.
        parts: Parameters of each part; trainable are those that a training changes by default.
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
            f"{name} {'on' if getattr(self.settings, name) else 'off'}"
            for name in ("hf", "gate", "proposer")
        )
        source = "" if self.source is None else f"{self.source}: "
        return f"{source}{self.settings.arch}, {switches}"

    def to_json(self) -> dict[str, Any]:
        """As the document that `samus-edge info --json` prints."""
        return {
            "weights": None if self.source is None else str(self.source),
            **to_json(self.settings),
            "parts": [to_json(part) for part in self.parts],
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
