"""The ViT architecture against the published SAMUS, from images to logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from samus_edge.modeling import SamusHF
from samus_edge.modeling.model_parts import samus_hf_vit
from samus_edge.weights import load_start_weights
from samus_edge.weights.checkpoint_file import CheckpointFile
from tests.modeling.conftest import ReferenceSamus

PARITY_TOLERANCE = 1e-4
"""Float32 through encoder and decoder; what the project promises against the reference."""


@pytest.fixture(scope="module", params=[False, True], ids=["without hf and gate", "with both"])
def model(request: pytest.FixtureRequest, reference_samus: ReferenceSamus) -> SamusHF:
    """Our architecture with the reference's weights, at the reference's size."""
    switch: bool = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = samus_hf_vit(embed_dim=64, depth=12, num_heads=4, hf=switch, gate=switch)
    account = load_start_weights(
        model, CheckpointFile(Path("reference"), reference_samus.weights, {})
    )
    assert account.left_over == ()
    parts = {".".join(name.split(".")[1:3]) for name in account.new}
    assert parts == ({"cnn_branch.gate", "cnn_branch.hf_conv"} if switch else set())
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def embeddings(model: SamusHF, reference_samus: ReferenceSamus) -> Tensor:
    """Our embeddings of the reference's images; the high-frequency image must not matter yet."""
    images = torch.from_numpy(reference_samus.arrays["images"])
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator)
    out: Tensor = model.image_encoder(images, noise)
    return out


def test_embeddings_are_the_published_ones(
    embeddings: Tensor, reference_samus: ReferenceSamus
) -> None:
    expected = reference_samus.arrays["image_embeddings"]
    np.testing.assert_allclose(embeddings.numpy(), expected, rtol=0, atol=PARITY_TOLERANCE)


def test_masks_are_the_published_ones(
    model: SamusHF, embeddings: Tensor, reference_samus: ReferenceSamus
) -> None:
    """The reference pads a point prompt by one point, a box by none."""
    arrays = reference_samus.arrays
    coords = torch.from_numpy(arrays["point_coords"]).float()
    labels = torch.from_numpy(arrays["point_labels"]).float()
    count = len(coords)
    masks, _ = model.decode(
        embeddings,
        torch.cat((coords, torch.zeros(count, 1, 2)), dim=1),
        torch.cat((labels, -torch.ones(count, 1)), dim=1),
        torch.zeros(count, 1, 128, 128),
        torch.zeros(count, 1),
    )
    boxes = torch.from_numpy(arrays["boxes"])
    box_masks, ious = model.decode(
        embeddings[:1],
        boxes.view(-1, 2, 2),
        torch.tensor([2.0, 3.0]).expand(len(boxes), 2),
        torch.zeros(len(boxes), 1, 128, 128),
        torch.zeros(len(boxes), 1),
    )
    for found, name in (
        (masks[:, :1], "point_low_res_logits"),
        (box_masks[:, 1:], "box_low_res_logits"),
        (ious[:, 1:], "box_iou_predictions"),
    ):
        np.testing.assert_allclose(found.numpy(), arrays[name], rtol=0, atol=PARITY_TOLERANCE)
