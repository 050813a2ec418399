"""The parts of a SAMUS-HF: which tensor belongs where, what is trained, how large each is."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from samus_edge.archs import check_arch
from samus_edge.errors import BadArgumentError
from samus_edge.modeling.layers import ConvNorm
from samus_edge.modeling.lesion_proposer import LesionProposer
from samus_edge.modeling.mask_decoder import MaskDecoder
from samus_edge.modeling.prompt_encoder import PositionEmbedding, PromptEncoder
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.tiny_image_encoder import TinyImageEncoder
from samus_edge.modeling.two_way_transformer import TwoWayTransformer
from samus_edge.modeling.vit_image_encoder import VitAttention, VitImageEncoder


def fold_constants(module: nn.Module) -> None:
    """Fold normalisations, positions and biases without effect, in place.

    The module computes the same function in evaluation mode, from other tensors.

    Args:
        module: a model or a part of it, in evaluation mode.
    """
    for child in module.modules():
        if isinstance(child, ConvNorm | PositionEmbedding | TwoWayTransformer | VitAttention):
            child.fold()


EMBED_DIM = 256


def samus_hf_tiny(*, hf: bool = True, gate: bool = True, proposer: bool = False) -> SamusHF:
    """The edge model with random weights: TinyViT and CNN encoder, SAM's decoder.

    Args:
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.
        proposer: whether a head proposes lesions without a prompt.

    Returns:
        The model in training mode; initialise with :mod:`samus_edge.weights`.
    """
    encoder = TinyImageEncoder(embed_dim=EMBED_DIM, hf=hf, gate=gate)
    return with_sams_decoder(encoder, proposer=proposer)


def samus_hf_vit(
    *,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    global_blocks: Sequence[int] = (2, 5, 8, 11),
    hf: bool = True,
    gate: bool = True,
    proposer: bool = False,
) -> SamusHF:
    """The published SAMUS with HF, with random weights: ViT and CNN encoder, SAM's decoder.

    The size is that of ViT-B unless told otherwise; see :class:`VitImageEncoder`.
    """
    encoder = VitImageEncoder(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        global_blocks=global_blocks,
        out_chans=EMBED_DIM,
        hf=hf,
        gate=gate,
    )
    return with_sams_decoder(encoder, proposer=proposer)


def build_samus_hf(
    arch: str, *, hf: bool = True, gate: bool = True, proposer: bool = False
) -> SamusHF:
    """The architecture of that name, with random weights, in training mode.

    Args:
        arch: one of :data:`samus_edge.archs.ARCHS`.
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.
        proposer: whether a head proposes lesions without a prompt.

    Raises:
        BadArgumentError: if there is no such architecture.
    """
    if check_arch(arch) == "tiny":
        return samus_hf_tiny(hf=hf, gate=gate, proposer=proposer)
    return samus_hf_vit(hf=hf, gate=gate, proposer=proposer)


def arch_of(model: SamusHF) -> str:
    """The name in :data:`samus_edge.archs.ARCHS` of a model's architecture, of whatever size."""
    return "vit_b" if isinstance(model.image_encoder, VitImageEncoder) else "tiny"


def with_sams_decoder(
    image_encoder: nn.Module, *, embedding_size: int = 32, proposer: bool = False
) -> SamusHF:
    """An image encoder of (B, 256, h, h) embeddings with SAM's prompt encoder and mask decoder."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=2048)
    return SamusHF(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(embed_dim=EMBED_DIM, embedding_size=embedding_size),
        mask_decoder=MaskDecoder(transformer=transformer, embed_dim=EMBED_DIM),
        lesion_proposer=LesionProposer(embed_dim=EMBED_DIM) if proposer else None,
    )


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
    ("lesion_proposer", r"lesion_proposer\."),
)

DECODER_PARTS = ("prompt_encoder", "mask_decoder")

SAMUS_PARTS = (
    "cnn_branch",
    "cross_branch_attention",
    "adapters",
    "position_adapter",
)
"""What SAMUS adds to SAM."""

ADDED_PARTS = ("high_frequency", "gate", "lesion_proposer")
"""What SAMUS-HF adds to SAMUS; masks are the same until the first two are trained."""

PUBLISHED_TRAINABLE = (*SAMUS_PARTS, "global_relative_positions", *ADDED_PARTS)
"""What is trained of `vit_b`, as SAMUS (arXiv 2309.06824) does, with our additions."""


@dataclass(frozen=True)
class PartSize:
    """Size of one part of a model.

    Attributes:
        part: name of the part.
        parameters: number of its parameters.
        trainable: number of those that are trained.
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
        unfreeze: further trained parts: names of parts, or beginnings of parameters' names up to a
            dot, such as `image_encoder.blocks.11`.

    Raises:
        BadArgumentError: naming everything in ``unfreeze`` that the model does not have.
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
        raise BadArgumentError(
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
