"""The prompt encoder against Meta's."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.prompt_encoder import PositionEmbedding, PromptEncoder

TOLERANCE = 1e-5
"""Float32, values around 1."""


def test_is_max_pooling_convolution_normalisation_and_gelu(
    randomise: Callable[[nn.Module], None],
) -> None:
    position = PositionEmbedding(8, grid_size=3)
    randomise(position)
    state = position.state_dict()
    pooled = state["table"].view(3, 2, 3, 2, 8).amax(dim=(1, 3))  # (h, w, C)
    convolved = F.conv2d(pooled.permute(2, 0, 1)[None], state["adapter.conv.weight"], padding=1)
    centred = convolved - convolved.mean(dim=1, keepdim=True)
    normalised = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    weight, bias = state["adapter.norm.weight"], state["adapter.norm.bias"]
    scaled = normalised * weight[:, None, None] + bias[:, None, None]
    expected = 0.5 * scaled * (1 + torch.erf(scaled / 2**0.5))  # GELU
    with torch.no_grad():
        embedding = position()
    assert embedding.shape == (1, 3, 3, 8)
    torch.testing.assert_close(
        embedding, expected.permute(0, 2, 3, 1), rtol=TOLERANCE, atol=TOLERANCE
    )


def test_folded_it_is_the_same_constant(randomise: Callable[[nn.Module], None]) -> None:
    position = PositionEmbedding(4, grid_size=2)
    randomise(position)
    with torch.no_grad():
        expected = position().clone()
        for _ in range(2):  # the second time does nothing
            position.fold()
            assert torch.equal(position(), expected)
    assert set(position.state_dict()) == {"table"}


EMBED_DIM, EMBEDDING_SIZE, IMAGE_SIZE = 16, 4, 32


@pytest.fixture
def encoders(
    segment_anything_modeling: types.ModuleType, randomise: Callable[[nn.Module], None]
) -> tuple[Any, PromptEncoder]:
    """Meta's prompt encoder and ours with the same random weights."""
    reference = segment_anything_modeling.PromptEncoder(
        embed_dim=EMBED_DIM,
        image_embedding_size=(EMBEDDING_SIZE, EMBEDDING_SIZE),
        input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
        mask_in_chans=8,
    )
    randomise(reference)
    ours = PromptEncoder(
        embed_dim=EMBED_DIM,
        embedding_size=EMBEDDING_SIZE,
        image_size=IMAGE_SIZE,
        mask_in_chans=8,
    )
    ours.load_state_dict(reference.state_dict())
    return reference.eval().requires_grad_(False), ours.eval().requires_grad_(False)


def without_mask(count: int) -> tuple[Tensor, Tensor]:
    """A mask input that does not count, holding values that must not leak."""
    side = 4 * EMBEDDING_SIZE
    return torch.full((count, 1, side, side), 7.0), torch.zeros(count, 1)


def test_points_with_sams_padding_point(encoders: tuple[Any, PromptEncoder]) -> None:
    reference, ours = encoders
    coords = torch.rand(3, 2, 2) * IMAGE_SIZE
    labels = torch.tensor([[1, 0], [0, 1], [1, 1]])
    expected_sparse, expected_dense = reference((coords, labels), None, None)
    padded_coords = torch.cat((coords, torch.zeros(3, 1, 2)), dim=1)
    padded_labels = torch.cat((labels.float(), -torch.ones(3, 1)), dim=1)
    sparse, dense = ours(padded_coords, padded_labels, *without_mask(3))
    torch.testing.assert_close(sparse, expected_sparse, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(dense, expected_dense, rtol=0, atol=TOLERANCE)


def test_padding_is_the_same_wherever_its_coordinates_are(
    encoders: tuple[Any, PromptEncoder],
) -> None:
    _, ours = encoders
    labels = torch.tensor([[1.0, -1.0]])
    rows = [
        ours(torch.tensor([[[3.0, 4.0], padding]]), labels, *without_mask(1))[0]
        for padding in ([0.0, 0.0], [31.0, 9.0])
    ]
    assert torch.equal(*rows)


def test_a_box_is_two_points_labelled_2_and_3(encoders: tuple[Any, PromptEncoder]) -> None:
    reference, ours = encoders
    corners = torch.rand(4, 2, 2) * IMAGE_SIZE
    expected, _ = reference(None, corners.view(4, 4), None)
    labels = torch.tensor([2.0, 3.0]).expand(4, 2)
    sparse, _ = ours(corners, labels, *without_mask(4))
    torch.testing.assert_close(sparse, expected, rtol=0, atol=TOLERANCE)


def test_a_box_with_points(encoders: tuple[Any, PromptEncoder]) -> None:
    reference, ours = encoders
    corners, points = torch.rand(2, 2, 2) * IMAGE_SIZE, torch.rand(2, 3, 2) * IMAGE_SIZE
    labels = torch.tensor([[1, 0, -1], [0, 0, 1]])
    expected, _ = reference((points, labels), corners.view(2, 4), None)
    expected = torch.cat((expected[:, 3:], expected[:, :3]), dim=1)  # SAM puts the box last
    box_labels = torch.tensor([2, 3]).expand(2, 2)
    sparse, _ = ours(
        torch.cat((corners, points), dim=1),
        torch.cat((box_labels, labels), dim=1),
        *without_mask(2),
    )
    torch.testing.assert_close(sparse, expected, rtol=0, atol=TOLERANCE)


def test_a_mask_input_counts_where_it_is_said_to(encoders: tuple[Any, PromptEncoder]) -> None:
    reference, ours = encoders
    side = 4 * EMBEDDING_SIZE
    masks = torch.randn(2, 1, side, side)
    coords, labels = torch.rand(2, 2, 2), torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    _, with_mask = reference(None, coords.view(2, 4), masks)
    _, no_mask = reference(None, coords.view(2, 4), None)
    _, dense = ours(coords, labels, masks, torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(dense[0], with_mask[0], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(dense[1], no_mask[1], rtol=0, atol=TOLERANCE)


def test_dense_positional_encoding_is_sams_row_by_row(encoders: tuple[Any, PromptEncoder]) -> None:
    reference, ours = encoders
    expected = reference.get_dense_pe().flatten(2).transpose(1, 2)  # (1, h*w, C)
    torch.testing.assert_close(ours.dense_pe(), expected, rtol=0, atol=TOLERANCE)
