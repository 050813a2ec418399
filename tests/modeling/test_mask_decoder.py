"""The mask decoder against Meta's."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from samus_edge.modeling.mask_decoder import MaskDecoder, MaskUpscaling
from samus_edge.modeling.two_way_transformer import TwoWayTransformer


def test_masks_are_products_with_the_upscaled_image(
    randomise: Callable[[nn.Module], None],
) -> None:
    upscaling = MaskUpscaling(32).eval()
    randomise(upscaling)
    image, hyper = torch.randn(2, 32, 3, 5), torch.randn(2, 4, 4)
    with torch.no_grad():
        upscaled = upscaling(image)  # plain transposed convolutions
        expected = torch.einsum("nmc,nchw->nmhw", hyper, upscaled)
        outcome = upscaling.masks(image.flatten(2).transpose(1, 2), hyper, (3, 5))
    assert outcome.shape == (2, 4, 12, 20)
    torch.testing.assert_close(outcome, expected, rtol=1e-5, atol=1e-5)


RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-4, 1e-4
"""Float32; with these random weights logits reach tens."""

EMBED_DIM, SIDE = 32, 4


@pytest.fixture
def decoders(
    segment_anything_modeling: types.ModuleType, randomise: Callable[[nn.Module], None]
) -> tuple[Any, MaskDecoder]:
    """Meta's mask decoder and ours with the same random weights."""
    settings = {"depth": 2, "embedding_dim": EMBED_DIM, "num_heads": 2, "mlp_dim": 24}
    reference = segment_anything_modeling.MaskDecoder(
        transformer=segment_anything_modeling.TwoWayTransformer(**settings),
        transformer_dim=EMBED_DIM,
        num_multimask_outputs=3,
        iou_head_hidden_dim=20,
    )
    randomise(reference)
    ours = MaskDecoder(
        transformer=TwoWayTransformer(**settings), embed_dim=EMBED_DIM, iou_head_hidden_dim=20
    )
    ours.load_state_dict(reference.state_dict())
    return reference.eval(), ours.eval()


def test_single_mask_and_multimask_outputs_of_several_prompts(
    decoders: tuple[Any, MaskDecoder],
) -> None:
    reference, ours = decoders
    image, image_pe = torch.randn(1, EMBED_DIM, SIDE, SIDE), torch.randn(1, EMBED_DIM, SIDE, SIDE)
    sparse, dense = torch.randn(3, 2, EMBED_DIM), torch.randn(3, EMBED_DIM, SIDE, SIDE)
    with torch.no_grad():
        masks, ious = ours(image, image_pe.flatten(2).transpose(1, 2), sparse, dense)
        assert masks.shape == (3, 4, 4 * SIDE, 4 * SIDE)
        assert ious.shape == (3, 4)
        for multimask, kept in ((False, slice(0, 1)), (True, slice(1, None))):
            expected = reference(
                image_embeddings=image,
                image_pe=image_pe,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
            )
            for found, wanted in zip((masks, ious), expected, strict=True):
                torch.testing.assert_close(
                    found[:, kept], wanted, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE
                )


def test_the_order_of_points_and_box_does_not_matter(decoders: tuple[Any, MaskDecoder]) -> None:
    _, ours = decoders
    image, image_pe = torch.randn(1, EMBED_DIM, SIDE, SIDE), torch.randn(1, SIDE**2, EMBED_DIM)
    sparse, dense = torch.randn(1, 5, EMBED_DIM), torch.randn(1, EMBED_DIM, SIDE, SIDE)
    with torch.no_grad():
        expected, _ = ours(image, image_pe, sparse, dense)
        permuted, _ = ours(image, image_pe, sparse[:, [3, 1, 4, 0, 2]], dense)
    torch.testing.assert_close(permuted, expected, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE)
