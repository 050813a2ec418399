"""The parts of a SAMUS-HF: which tensor belongs where, what is trained, how large each is."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from samus_edge.modeling.builders import arch_of
from samus_edge.modeling.samus_hf import SamusHF

# part and the names of its tensors, in the order in which they are asked
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("gate", r"image_encoder\.cnn_branch\.gate\."),
    ("high_frequency", r"image_encoder\.cnn_branch\.hf_conv\."),
    ("cnn_branch", r"image_encoder\.(cnn_branch\.|blocks\.\d+\.cnn_refine\.)"),
    ("cross_branch_attention", r"image_encoder\.\w+\.\d+\.cross_branch\."),
    ("position_adapter", r"image_encoder\.position\.adapter\."),
    ("adapters", r"image_encoder\.(input_adapter\.|\w+\.\d+\.adapter\.)"),
    ("global_relative_positions", r"image_encoder\.blocks\.(?P<block>\d+)\.attn\.rel_pos_[hw]$"),
    ("position_table", r"image_encoder\.position\.table$"),
    ("patch_embed", r"image_encoder\.patch_embed\."),
    ("vit", r"image_encoder\.(blocks|stage\d|merge\d)\."),
    ("neck", r"image_encoder\.(neck|skip)"),
    ("prompt_encoder", r"prompt_encoder\."),
    ("mask_decoder", r"mask_decoder\."),
)

DECODER_PARTS = ("prompt_encoder", "mask_decoder")

SAMUS_PARTS = (
    "cnn_branch",
    "cross_branch_attention",
    "adapters",
    "position_adapter",
)
"""What SAMUS adds to SAM."""

ADDED_PARTS = ("high_frequency", "gate")
"""What SAMUS-HF adds to SAMUS; both add nothing until they are trained."""

PUBLISHED_TRAINABLE = (*SAMUS_PARTS, "global_relative_positions", *ADDED_PARTS)
"""What is trained of `vit_b`, as SAMUS (arXiv 2309.06824) does, with our additions."""


@dataclass(frozen=True)
class PartSize:
    """Size of one part of a model.

    Attributes:
        part: its name.
        parameters: how many numbers its parameters hold.
        trainable: how many of them are trained.
    """

    part: str
    parameters: int
    trainable: int


def parts_of(names: Iterable[str]) -> dict[str, str]:
    """The part of every tensor of a model.

    Args:
        names: all names of its state dict, or all of its parameters' names.

    Returns:
        Part by name, in the order given.
    """
    names = list(names)
    cross_branch = (re.match(r"image_encoder\.blocks\.(\d+)\.cross_branch\.", n) for n in names)
    global_blocks = {match[1] for match in cross_branch if match}
    return {name: _part_of(name, global_blocks) for name in names}


def select_trainable(
    model: SamusHF, *, train_decoder: bool = False, unfreeze: Sequence[str] = ()
) -> None:
    """Freeze and unfreeze a model's parameters, in place.

    All of `tiny` is trained. Of `vit_b` the parts in :data:`PUBLISHED_TRAINABLE` are, unless more
    is asked for.

    Args:
        model: the model.
        train_decoder: whether prompt encoder and mask decoder are trained as well.
        unfreeze: what else is trained: names of parts, or beginnings of parameters' names up to a
            dot, such as `image_encoder.blocks.11`.

    Raises:
        ValueError: naming everything in ``unfreeze`` that the model does not have.
    """
    parts = parts_of(name for name, _ in model.named_parameters())
    known = set(parts.values())
    trained = set(PUBLISHED_TRAINABLE) if arch_of(model) == "vit_b" else known
    trained = trained | set(DECODER_PARTS) if train_decoder else trained
    wanted = [item.rstrip(".") for item in unfreeze]
    unknown = [
        item
        for item in wanted
        if item not in known and not any(_begins_with(name, item) for name in parts)
    ]
    if unknown:
        choices = ", ".join(dict.fromkeys(parts.values()))
        raise ValueError(
            f"unfreeze {', '.join(map(repr, unknown))}: neither a part of the model nor the "
            f"beginning of a parameter's name. The parts are {choices}."
        )
    for name, parameter in model.named_parameters():
        part = parts[name]
        asked = part in wanted or any(_begins_with(name, item) for item in wanted)
        parameter.requires_grad_(part in trained or asked)


def part_sizes(model: SamusHF) -> list[PartSize]:
    """Parameters of every part, in the order of the model."""
    parts = parts_of(name for name, _ in model.named_parameters())
    counts = {part: [0, 0] for part in parts.values()}
    for name, parameter in model.named_parameters():
        count = counts[parts[name]]
        count[0] += parameter.numel()
        count[1] += parameter.numel() if parameter.requires_grad else 0
    return [PartSize(part, *count) for part, count in counts.items()]


def _part_of(name: str, global_blocks: set[str]) -> str:
    for part, pattern in _PATTERNS:
        match = re.match(pattern, name)
        if match and match.groupdict().get("block", "") in ("", *global_blocks):
            return part
    raise AssertionError(f"{name} belongs to no part")


def _begins_with(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
