"""The model's inputs against their definitions, and its decoder against the published SAMUS."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samus_edge.high_frequency import high_frequency_image
from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.modeling.samus_hf import HighFrequency, InputScaling
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


SCALING_TOLERANCE = 1e-5
"""Of [0, 1]; OpenCV's float32 interpolation weights differ in the last digits."""


@pytest.mark.parametrize("hw", [(1, 1), (1, 300), (37, 1), (64, 64), (471, 562), (300, 801)])
def test_frames_are_scaled_as_by_opencv_on_float32(hw: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *hw), dtype=np.uint8)
    scaled = InputScaling(64)(torch.from_numpy(frames))
    assert scaled.shape == (2, 1, 64, 64)
    for frame, image in zip(frames, scaled.numpy(), strict=True):
        expected = cv2.resize(frame.astype(np.float32), (64, 64), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(image[0], expected / 255.0, rtol=0, atol=SCALING_TOLERANCE)


def test_integers_and_numbers_are_scaled_alike() -> None:
    frames = torch.randint(0, 256, (1, 20, 30), dtype=torch.uint8)
    scaling = InputScaling(16)
    assert torch.equal(scaling(frames), scaling(frames.float()))


TOLERANCE_GREY_LEVELS = 0.05
"""The contract between the definitions; the floors are chosen so that float32 stays inside it."""

FRAMES = sorted((Path(__file__).parents[1] / "assets" / "frames").glob("*.png"))

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
GREY_LEVELS = st.one_of(
    st.just(st.integers(0, 255)),  # anything
    st.just(st.integers(0, 1)),  # bands of the smallest ranges
    st.just(st.integers(254, 255)),
    st.just(st.sampled_from([0, 255])),  # saturated
)
ANY_FRAMES = st.tuples(SIZES, GREY_LEVELS).flatmap(
    lambda drawn: hnp.arrays(np.uint8, drawn[0], elements=drawn[1])
)


@st.composite
def nearly_cancelling_frames(draw: st.DrawFn) -> npt.NDArray[np.uint8]:
    """Frames whose scaled bands nearly sum to a constant, around and below the floor of the sum.

    Of the blocks' band values (horizontal, vertical), two are (0, v) and (h, 0), and the others lie
    on the line between them up to rounding: after scaling they all sum to 255, plus a small error.
    """
    horizontal, vertical = draw(st.integers(2, 255)), draw(st.integers(2, 255))
    count = draw(st.integers(1, 6))
    blocks = [(0.0, float(vertical)), (float(horizontal), 0.0)]
    for _ in range(count):
        share = draw(st.floats(0.0, 1.0))
        blocks.append((round(share * horizontal), round((1.0 - share) * vertical)))
    columns = []
    for h, v in blocks:
        # The inverse Haar transform, with the mean in the middle of the range; flooring keeps the
        # four pixels' differences within one grey level of h and v.
        pixels = np.array([[h + v, h - v], [v - h, -h - v]]) / 2 + 127.5
        columns.append(np.clip(np.floor(pixels), 0, 255))
    return np.hstack(columns).astype(np.uint8)


def largest_difference(image: npt.NDArray[np.uint8]) -> float:
    """Largest difference between module and reference, in grey levels."""
    with torch.inference_mode():
        computed = HighFrequency()(torch.from_numpy(image)[None])
    assert computed.shape == (1, 1, 256, 256)
    assert computed.dtype == torch.float32
    return float(np.abs(computed[0, 0].numpy() - high_frequency_image(image)).max())


@given(ANY_FRAMES)
@example(np.zeros((1, 1), dtype=np.uint8))
@example(np.full((2, 2), 255, dtype=np.uint8))
@settings(deadline=None, derandomize=True)
def test_the_wavelet_image_agrees_on_small_frames(image: npt.NDArray[np.uint8]) -> None:
    assert largest_difference(image) <= TOLERANCE_GREY_LEVELS


@given(nearly_cancelling_frames())
@example(  # the sum's range is exactly 1, half of its floor
    np.array([[255, 0, 255, 255, 255, 128], [255, 0, 0, 0, 128, 1]], dtype=np.uint8)
)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_the_wavelet_image_agrees_where_the_bands_nearly_cancel(
    image: npt.NDArray[np.uint8],
) -> None:
    assert largest_difference(image) <= TOLERANCE_GREY_LEVELS


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.stem)
def test_the_wavelet_image_agrees_on_real_frames(path: Path) -> None:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert largest_difference(image.astype(np.uint8)) <= TOLERANCE_GREY_LEVELS


@pytest.mark.parametrize(
    "image_hw",
    [(1, 1), (1, 640), (640, 1), (255, 257), (511, 512), (513, 1024), (1080, 1920)],
    ids=lambda hw: f"{hw[0]}x{hw[1]}",
)
@pytest.mark.parametrize("kind", ["noise", "saturated", "constant", "one_pixel"])
def test_the_wavelet_image_agrees_on_synthetic_frames(kind: str, image_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = np.full(image_hw, 77, dtype=np.uint8)
    if kind == "noise":
        image = rng.integers(0, 256, image_hw, dtype=np.uint8)
    elif kind == "saturated":
        image = np.where(rng.random(image_hw) < 0.5, 0, 255).astype(np.uint8)
    elif kind == "one_pixel":
        image[image_hw[0] // 2, image_hw[1] // 2] = 78
    assert largest_difference(image) <= TOLERANCE_GREY_LEVELS


def test_frames_of_a_batch_are_scaled_one_by_one() -> None:
    rng = np.random.default_rng(0)
    images = (
        rng.integers(0, 256, (3, 41, 30), dtype=np.uint8)
        // np.array([1, 4, 16], np.uint8)[:, None, None]
    )
    with torch.inference_mode():
        computed = HighFrequency()(torch.from_numpy(images))[:, 0].numpy()
    expected = np.stack([high_frequency_image(image) for image in images])
    np.testing.assert_allclose(computed, expected, atol=TOLERANCE_GREY_LEVELS)
