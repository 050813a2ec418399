"""Start of the ViT architecture from SAM's or SAMUS's checkpoints.

Key map, theirs to ours; what is not listed (the blocks' `norm1`, `attn`, `norm2` and `mlp`, `neck`,
`prompt_encoder`, `mask_decoder`) keeps its name:

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
from collections.abc import Mapping

import torch
from torch import Tensor

from samus_edge.modeling.model_parts import ADDED_PARTS, SAMUS_PARTS, parts_of
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.vit_image_encoder import resized_table
from samus_edge.weights.checkpoint_file import CheckpointFile
from samus_edge.weights.transfer import ConvertedTensors, WeightAccount, transfer

SAM_KIND = "SAM's ViT-B checkpoint"
SAMUS_KIND = "a SAMUS checkpoint"

_RENAMES: tuple[tuple[str, str], ...] = (
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


def load_sam(model: SamusHF, checkpoint: CheckpointFile) -> WeightAccount:
    """Copy SAM's weights into a ViT SAMUS-HF, in place.

    The relative positions of the global blocks are interpolated from SAM's 64x64 tokens to our
    grid. What SAMUS and we add is new: it starts as the builder left it.

    Args:
        model: a model from :func:`samus_edge.modeling.samus_hf_vit_b`.
        checkpoint: `sam_vit_b_01ec64.pth`, read.

    Raises:
        WeightsError: if the checkpoint does not fit the model.
    """
    converted = convert_names(checkpoint)
    _resize_relative_positions(converted, model.state_dict())
    return transfer(
        model,
        converted,
        path=checkpoint.path,
        kind=SAM_KIND,
        new_parts=(*SAMUS_PARTS, *ADDED_PARTS),
    )


def load_samus(model: SamusHF, checkpoint: CheckpointFile) -> WeightAccount:
    """Copy SAMUS's weights into a ViT SAMUS-HF, in place; until trained it then computes SAMUS.

    Args:
        model: a model from :func:`samus_edge.modeling.samus_hf_vit_b`.
        checkpoint: a checkpoint of SAMUS's published code, read.

    Raises:
        WeightsError: if the checkpoint does not fit the model.
    """
    return transfer(
        model,
        convert_names(checkpoint),
        path=checkpoint.path,
        kind=SAMUS_KIND,
        new_parts=ADDED_PARTS,
    )


def convert_names(checkpoint: CheckpointFile) -> ConvertedTensors:
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
        name = key
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
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
