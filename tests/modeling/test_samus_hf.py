"""The whole model, and its decoder against the published SAMUS."""

import numpy as np
import torch

from samus_edge.high_frequency import high_frequency_image
from samus_edge.modeling import SamusHF, samus_hf_tiny
from tests.conftest import AssetFrame
from tests.modeling.conftest import ReferenceSamus

PARITY_TOLERANCE = 1e-4
"""Float32 through a whole decoder; what the project promises against the reference."""

EMBEDDING_TOLERANCE = 0.02
"""The wavelet images agree to 0.05 of 255 grey levels; embeddings have unit variance."""


def decoder_of_reference(reference: ReferenceSamus) -> SamusHF:
    """A model whose prompt encoder and mask decoder are the reference's."""
    model = samus_hf_tiny().eval().requires_grad_(False)
    own = model.state_dict()
    decoder = {
        name: tensor
        for name, tensor in reference.weights.items()
        if name.startswith(("prompt_encoder.", "mask_decoder."))
    }
    assert {name for name in own if not name.startswith("image_encoder.")} == decoder.keys()
    model.load_state_dict({**own, **decoder})
    return model


def test_points_reproduce_the_published_samus(reference_samus: ReferenceSamus) -> None:
    model, arrays = decoder_of_reference(reference_samus), reference_samus.arrays
    count = len(arrays["point_coords"])
    for index in range(count):
        coords = torch.from_numpy(arrays["point_coords"][index : index + 1]).float()
        labels = torch.from_numpy(arrays["point_labels"][index : index + 1]).float()
        masks, _ = model.decode(
            torch.from_numpy(arrays["image_embeddings"][index : index + 1]),
            torch.cat((coords, torch.zeros(1, 1, 2)), dim=1),
            torch.cat((labels, -torch.ones(1, 1)), dim=1),
            torch.zeros(1, 1, 128, 128),
            torch.zeros(1, 1),
        )
        expected = arrays["point_low_res_logits"][index : index + 1]
        np.testing.assert_allclose(masks[:, :1].numpy(), expected, rtol=0, atol=PARITY_TOLERANCE)


def test_boxes_reproduce_the_published_samus(reference_samus: ReferenceSamus) -> None:
    model, arrays = decoder_of_reference(reference_samus), reference_samus.arrays
    boxes = torch.from_numpy(arrays["boxes"])
    masks, ious = model.decode(
        torch.from_numpy(arrays["image_embeddings"][:1]),
        boxes.view(-1, 2, 2),
        torch.tensor([2.0, 3.0]).expand(len(boxes), 2),
        torch.zeros(len(boxes), 1, 128, 128),
        torch.zeros(len(boxes), 1),
    )
    for found, name in ((masks, "box_low_res_logits"), (ious, "box_iou_predictions")):
        np.testing.assert_allclose(
            found[:, 1:].numpy(), arrays[name], rtol=0, atol=PARITY_TOLERANCE
        )


def test_frames_enter_as_grey_and_high_frequency_in_unit_range(
    random_model: SamusHF, asset_frames: list[AssetFrame]
) -> None:
    frame = asset_frames[-1].image
    grey = random_model.input_scaling(torch.from_numpy(frame)[None])
    high_frequency = torch.from_numpy(high_frequency_image(frame) / 255.0)[None, None].float()
    with torch.no_grad():
        expected = random_model.image_encoder(grey, high_frequency)
        embeddings = random_model.encode_frames(torch.from_numpy(frame)[None])
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=EMBEDDING_TOLERANCE)


def test_prompts_decoded_together_are_decoded_as_alone(random_model: SamusHF) -> None:
    embeddings = torch.randn(1, 256, 32, 32)
    coords = torch.rand(3, 2, 2) * 256
    labels = torch.tensor([[1.0, -1.0], [2.0, 3.0], [0.0, 1.0]])
    masks, has_mask = torch.randn(3, 1, 128, 128), torch.tensor([[0.0], [1.0], [0.0]])
    with torch.no_grad():
        together = random_model.decode(embeddings, coords, labels, masks, has_mask)
        for index in range(3):
            row = slice(index, index + 1)
            alone = random_model.decode(
                embeddings, coords[row], labels[row], masks[row], has_mask[row]
            )
            for one, several in zip(alone, together, strict=True):
                torch.testing.assert_close(one, several[row], rtol=0, atol=PARITY_TOLERANCE)
