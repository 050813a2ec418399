"""Every kind of checkpoint that a model can start from, recognised by its content."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from samus_edge.errors import BadArgumentError, OutputFileError, WeightsError
from samus_edge.modeling.model_parts import arch_of, build_samus_hf, fold_constants
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.records import to_json
from samus_edge.runtime.images.output_files import sha256_of_file
from samus_edge.weights.checkpoint_file import CheckpointFile, read_checkpoint
from samus_edge.weights.foreign_checkpoints import load_lite_medsam, load_sam, load_samus
from samus_edge.weights.model_file import (
    FORMAT,
    is_folded,
    is_own,
    load_own,
    read_settings,
    save_model,
    settings_of,
    switches_of,
)
from samus_edge.weights.transfer import WeightAccount


@dataclass(frozen=True)
class _Kind:
    """A kind of checkpoint.

    Attributes:
        title: Completes "holds ...".
        arch: Architecture that starts from it.
        load: Copies it into a model.
    """

    title: str
    arch: str
    load: Callable[[SamusHF, CheckpointFile], WeightAccount]


# By the beginning of a name that shows the kind; SAMUS before SAM, all of whose names it has.
_FOREIGN_KINDS = {
    "image_encoder.cnn_embed.": _Kind("SAMUS's weights", "vit_b", load_samus),
    "image_encoder.pos_embed": _Kind("SAM's weights", "vit_b", load_sam),
    "image_encoder.layers.": _Kind("LiteMedSAM's weights", "tiny", load_lite_medsam),
}


def model_from_checkpoint(
    path: Path,
    arch: str,
    *,
    hf: bool = True,
    gate: bool = True,
    proposer: bool | None = False,
    seed: int = 0,
) -> tuple[SamusHF, WeightAccount]:
    """A model with a checkpoint's weights; what the checkpoint lacks is drawn from a seed.

    Args:
        path: A checkpoint of SAM (ViT-B), SAMUS, LiteMedSAM or samus-edge, or a bundle.
        arch: One of :data:`samus_edge.archs.ARCHS`.
        hf: Whether the high-frequency image enters the CNN branch.
        gate: Whether the multi-scale attention gate follows the CNN branch.
        proposer: Whether a head proposes lesions without a prompt; None for whether the
            checkpoint has one.
        seed: Seed of the fresh parts.

    Returns:
        The model in training mode and the account of its weights. Of folded weights, which a
        bundle's are, the model is folded: its convolutions have biases instead of normalisations.

    Raises:
        BundleError: if the bundle is damaged.
        WeightsError: if the file is no such checkpoint, or starts another architecture.
    """
    checkpoint = _read_bundle(path) if _is_bundle(path) else read_checkpoint(path)
    _kind_for(checkpoint, arch)  # before the time that building takes
    if proposer is None:
        proposer = switches_of(checkpoint.tensors)["proposer"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_samus_hf(arch, hf=hf, gate=gate, proposer=proposer)
    if is_folded(checkpoint.tensors):
        fold_constants(model)
    return model, load_start_weights(model, checkpoint)


def _is_bundle(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".zip"


def _read_bundle(path: Path) -> CheckpointFile:
    """The weights in a bundle, as if :func:`save_model` had written them."""
    from samus_edge.weights.bundle_file import load_bundle_model  # needs the package onnx

    model = load_bundle_model(path)
    metadata = {"format": FORMAT, "settings": json.dumps(to_json(settings_of(model)))}
    return CheckpointFile(path, model.state_dict(), metadata)


def load_start_weights(model: SamusHF, checkpoint: CheckpointFile) -> WeightAccount:
    """Copy a checkpoint of any known kind into a model, in place.

    Args:
        model: The model.
        checkpoint: A checkpoint from :func:`read_checkpoint`.

    Raises:
        WeightsError: if the checkpoint is of no known kind or does not fit; the model is as before.
    """
    return _kind_for(checkpoint, arch_of(model)).load(model, checkpoint)


def _kind_for(checkpoint: CheckpointFile, arch: str) -> _Kind:
    """The checkpoint's kind, which has to start the architecture."""
    kind = _kind_of(checkpoint)
    if kind.arch != arch:
        raise WeightsError(
            f"{checkpoint.path} holds {kind.title}, which start the architecture {kind.arch!r}, "
            f"not {arch!r}. Choose the architecture {kind.arch!r} or another checkpoint."
        )
    return kind


def _kind_of(checkpoint: CheckpointFile) -> _Kind:
    if is_own(checkpoint):
        return _Kind("weights of samus-edge", read_settings(checkpoint).arch, load_own)
    for sign, kind in _FOREIGN_KINDS.items():
        if any(name.startswith(sign) for name in checkpoint.tensors):
            return kind
    example = next(iter(checkpoint.tensors), "none")
    raise WeightsError(
        f"{checkpoint.path} holds no weights that a model can start from: "
        f"{len(checkpoint.tensors)} tensors, {example} for one. Expected a checkpoint of SAM "
        "(sam_vit_b_01ec64.pth), SAMUS or LiteMedSAM, or weights of samus-edge."
    )


SUFFIX = ".safetensors"


def convert_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    arch: str,
    hf: bool = True,
    gate: bool = True,
    average: Path | None = None,
    share: float = 0.5,
) -> WeightAccount:
    """Turn a checkpoint that a model can start from into a weights file, written atomically.

    What the checkpoint lacks is drawn from seed 0, so that the same checkpoint gives the same
    weights. The file's settings name the checkpoint and its SHA-256.

    Args:
        checkpoint: A checkpoint of SAM (ViT-B), SAMUS, LiteMedSAM or samus-edge, or a bundle.
        out: A `.safetensors` file; an existing one is replaced.
        arch: One of :data:`samus_edge.archs.ARCHS`.
        hf: Whether the high-frequency image enters the CNN branch.
        gate: Whether the multi-scale attention gate follows the CNN branch.
        average: A second such checkpoint, whose weights the first one's are averaged with; as a
            rule the one that its training started from (WiSE-FT, arXiv 2109.01903). A lesion
            proposer stays the first one's: it belongs to its embeddings.
        share: What the second one counts in the average, in [0, 1].

    Returns:
        The account of every tensor of the first one.

    Raises:
        BadArgumentError: if ``out`` does not end in `.safetensors`, or is the checkpoint itself.
        OutputFileError: if ``out`` cannot be written.
        WeightsError: if a file is no such checkpoint, starts another architecture, or does not
            have the tensors of the other.
    """
    _check_out(out, checkpoint)
    model, account = model_from_checkpoint(checkpoint, arch, hf=hf, gate=gate, proposer=None)
    settings = {**to_json(settings_of(model)), **_source("converted_from", checkpoint)}
    if average is not None:
        other, _ = model_from_checkpoint(average, arch, hf=hf, gate=gate, proposer=None)
        _average(model, other, share, (checkpoint, average))
        settings |= {**_source("averaged_with", average), "averaged_share": share}
    save_model(model, out, settings)
    return account


def _source(what: str, path: Path) -> dict[str, str]:
    """Name and SHA-256 of a file, or of a bundle's weights."""
    is_bundle = _is_bundle(path)
    sha256 = Bundle.open(path).manifest.weights_sha256 if is_bundle else sha256_of_file(path)
    return {what: path.name, f"{what}_sha256": sha256}


@torch.no_grad()
def _average(model: SamusHF, other: SamusHF, share: float, paths: tuple[Path, Path]) -> None:
    """Move a model's weights towards another's, in place; its lesion proposer stays."""
    own, others = (
        {n: t for n, t in each.state_dict().items() if not n.startswith("lesion_proposer.")}
        for each in (model, other)
    )
    differing = sorted(
        name
        for name in own.keys() | others.keys()
        if name not in own or name not in others or own[name].shape != others[name].shape
    )
    if differing:
        raise WeightsError(
            f"the weights of {paths[0]} and {paths[1]} cannot be averaged: they differ in "
            f"{len(differing)} tensors, {differing[0]} for one. Average a training's weights with "
            "what it started from: a bundle's normalisations are folded into its convolutions."
        )
    for name, tensor in own.items():
        if tensor.is_floating_point():
            tensor.lerp_(others[name], share)


def _check_out(out: Path, checkpoint: Path) -> None:
    """Refuse what cannot be written before the work, not after it."""
    if out.suffix != SUFFIX:
        raise BadArgumentError(f"out must be a file ending in {SUFFIX}, got {out}.")
    if os.path.realpath(out) == os.path.realpath(checkpoint):
        raise BadArgumentError(
            f"out would overwrite the checkpoint {checkpoint}. Give another file."
        )
    if out.is_dir():
        raise OutputFileError(f"{out} is a folder. Give a file in it.")
    if not out.resolve().parent.is_dir():
        raise OutputFileError(f"{out} is in a folder that does not exist. Create it.")
