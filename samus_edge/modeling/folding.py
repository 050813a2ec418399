"""What is constant once training is over, computed beforehand."""

from torch import nn

from samus_edge.modeling.conv_norm import ConvNorm
from samus_edge.modeling.position_embedding import PositionEmbedding
from samus_edge.modeling.two_way_transformer import TwoWayTransformer
from samus_edge.modeling.vit_attention import VitAttention


def fold_constants(module: nn.Module) -> None:
    """Fold normalisations, position embeddings, relative positions and biases without effect, in place.

    The module computes the same function in evaluation mode, from other tensors.

    Args:
        module: a model or a part of it, in evaluation mode.
    """
    for child in module.modules():
        if isinstance(child, ConvNorm | PositionEmbedding | TwoWayTransformer | VitAttention):
            child.fold()
