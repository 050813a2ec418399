"""Builder functions, one per model size."""

from samus_edge.modeling.mask_decoder import MaskDecoder
from samus_edge.modeling.prompt_encoder import PromptEncoder
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.tiny_image_encoder import TinyImageEncoder
from samus_edge.modeling.two_way_transformer import TwoWayTransformer

EMBED_DIM = 256


def samus_hf_tiny(*, hf: bool = True, gate: bool = True) -> SamusHF:
    """The edge model with random weights: TinyViT and CNN encoder, SAM's decoder.

    Args:
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.

    Returns:
        The model in training mode; initialise with :mod:`samus_edge.weights`.
    """
    transformer = TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=2048)
    return SamusHF(
        image_encoder=TinyImageEncoder(embed_dim=EMBED_DIM, hf=hf, gate=gate),
        prompt_encoder=PromptEncoder(embed_dim=EMBED_DIM),
        mask_decoder=MaskDecoder(transformer=transformer, embed_dim=EMBED_DIM),
    )
