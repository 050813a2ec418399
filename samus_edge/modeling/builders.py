"""Builder functions, one per model size."""

from collections.abc import Sequence

from torch import nn

from samus_edge.archs import check_arch
from samus_edge.modeling.mask_decoder import MaskDecoder
from samus_edge.modeling.prompt_encoder import PromptEncoder
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.tiny_image_encoder import TinyImageEncoder
from samus_edge.modeling.two_way_transformer import TwoWayTransformer
from samus_edge.modeling.vit_image_encoder import VitImageEncoder

EMBED_DIM = 256


def samus_hf_tiny(*, hf: bool = True, gate: bool = True) -> SamusHF:
    """The edge model with random weights: TinyViT and CNN encoder, SAM's decoder.

    Args:
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.

    Returns:
        The model in training mode; initialise with :mod:`samus_edge.weights`.
    """
    return _with_sams_decoder(TinyImageEncoder(embed_dim=EMBED_DIM, hf=hf, gate=gate))


def samus_hf_vit_b(*, hf: bool = True, gate: bool = True) -> SamusHF:
    """The published SAMUS with HF, with random weights: ViT-B and CNN encoder, SAM's decoder.

    Args:
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.

    Returns:
        The model in training mode; initialise with :mod:`samus_edge.weights`.
    """
    return samus_hf_vit(embed_dim=768, depth=12, num_heads=12, hf=hf, gate=gate)


def samus_hf_vit(
    *,
    embed_dim: int,
    depth: int,
    num_heads: int,
    global_blocks: Sequence[int] = (2, 5, 8, 11),
    hf: bool = True,
    gate: bool = True,
) -> SamusHF:
    """A SAMUS of any width and depth; see :class:`VitImageEncoder` for the arguments."""
    encoder = VitImageEncoder(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        global_blocks=global_blocks,
        out_chans=EMBED_DIM,
        hf=hf,
        gate=gate,
    )
    return _with_sams_decoder(encoder)


def build_samus_hf(arch: str, *, hf: bool = True, gate: bool = True) -> SamusHF:
    """The architecture of that name, with random weights, in training mode.

    Args:
        arch: one of :data:`samus_edge.archs.ARCHS`.
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.

    Raises:
        ValueError: if there is no such architecture.
    """
    build = {"tiny": samus_hf_tiny, "vit_b": samus_hf_vit_b}[check_arch(arch)]
    return build(hf=hf, gate=gate)


def arch_of(model: SamusHF) -> str:
    """The name in :data:`samus_edge.archs.ARCHS` of a model's architecture, of whatever size."""
    return "vit_b" if isinstance(model.image_encoder, VitImageEncoder) else "tiny"


def _with_sams_decoder(image_encoder: nn.Module) -> SamusHF:
    transformer = TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=2048)
    return SamusHF(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(embed_dim=EMBED_DIM),
        mask_decoder=MaskDecoder(transformer=transformer, embed_dim=EMBED_DIM),
    )
