"""Foreign checkpoints to weights files of our own."""

import dataclasses
import os
from pathlib import Path

from samus_edge.errors import OutputFileError
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.weights.account import WeightAccount
from samus_edge.weights.checkpoint_loading import model_from_checkpoint
from samus_edge.weights.model_file import save_model, settings_of

SUFFIX = ".safetensors"


def convert_checkpoint(
    checkpoint: Path, out: Path, *, arch: str, hf: bool = True, gate: bool = True
) -> WeightAccount:
    """Turn a checkpoint that a model can start from into a weights file, written atomically.

    What the checkpoint lacks is drawn from seed 0, so that the same checkpoint gives the same
    weights. The file's settings name the checkpoint and its SHA-256.

    Args:
        checkpoint: of SAM (ViT-B), SAMUS, LiteMedSAM or samus-edge.
        out: a `.safetensors` file; an existing one is replaced.
        arch: one of :data:`samus_edge.archs.ARCHS`.
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.

    Returns:
        The account of every tensor.

    Raises:
        ValueError: if ``out`` does not end in `.safetensors`, or is the checkpoint itself.
        OutputFileError: if ``out`` cannot be written.
        WeightsError: if the file is no such checkpoint, or starts another architecture.
    """
    _check_out(out, checkpoint)
    model, account = model_from_checkpoint(checkpoint, arch, hf=hf, gate=gate)
    settings = {
        **dataclasses.asdict(settings_of(model)),
        "converted_from": checkpoint.name,
        "converted_from_sha256": sha256_of_file(checkpoint),
    }
    save_model(model, out, settings)
    return account


def _check_out(out: Path, checkpoint: Path) -> None:
    """Refuse what cannot be written before the work, not after it."""
    if out.suffix != SUFFIX:
        raise ValueError(f"out must be a file ending in {SUFFIX}, got {out}.")
    if os.path.realpath(out) == os.path.realpath(checkpoint):
        raise ValueError(f"out would overwrite the checkpoint {checkpoint}. Give another file.")
    if out.is_dir():
        raise OutputFileError(f"{out} is a folder. Give a file in it.")
    if not out.resolve().parent.is_dir():
        raise OutputFileError(f"{out} is in a folder that does not exist. Create it.")
