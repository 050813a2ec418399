"""Training samples: what the model will see, fixed by seed, epoch and index."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.busi import UltrasoundCase, list_cases, select_lesions
from samus_edge.data.training_samples import LesionDataset, TrainingSample, collate
from samus_edge.errors import DataError
from samus_edge.high_frequency import high_frequency_image

SIZE = 64
GREY_TOLERANCE = 1e-5
"""Of [0, 1], for OpenCV's float32 interpolation."""
HIGH_FREQUENCY_TOLERANCE = 0.05 / 255
"""The contract between the wavelet images."""


@pytest.fixture
def cases(fake_busi: Path) -> list[UltrasoundCase]:
    """The five lesion cases of `fake_busi`."""
    return select_lesions(list_cases(fake_busi))


def dataset(
    cases: list[UltrasoundCase], augmentation: AugmentationConfig | None, seed: int = 0
) -> LesionDataset:
    return LesionDataset(cases, image_size=SIZE, augmentation=augmentation, seed=seed)


def same(one: TrainingSample, other: TrainingSample) -> bool:
    return all(
        torch.equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(TrainingSample)
    )


def test_shapes_types_and_ranges(cases: list[UltrasoundCase]) -> None:
    for augmentation in (None, AugmentationConfig()):
        data = dataset(cases, augmentation)
        assert len(data) == 5
        for sample in (data[index] for index in range(5)):
            for image in (sample.image, sample.high_frequency, sample.mask):
                assert image.shape == (1, SIZE, SIZE) and image.dtype == torch.float32
                assert float(image.min()) >= 0.0 and float(image.max()) <= 1.0 + 1e-6
            assert set(sample.mask.flatten().tolist()) == {0.0, 1.0}
            assert sample.box.shape == (2, 2) and sample.box.dtype == torch.float32
            assert sample.click.shape == (1, 2) and sample.click.dtype == torch.float32


def test_samples_depend_on_seed_epoch_and_index_alone(cases: list[UltrasoundCase]) -> None:
    first, second = dataset(cases, AugmentationConfig()), dataset(cases, AugmentationConfig())
    samples = [first[index] for index in range(5)]
    assert all(same(second[index], samples[index]) for index in (3, 0, 4, 1, 2))
    assert not same(samples[0], dataset(cases, AugmentationConfig(), seed=1)[0])
    first.epoch = 1
    assert not same(first[0], samples[0])
    first.epoch = 0
    assert same(first[0], samples[0])


def test_validation_samples_are_fixed_and_not_augmented(cases: list[UltrasoundCase]) -> None:
    data = dataset(cases, None)
    earlier = data[0]
    data.epoch = 7
    assert same(data[0], earlier)
    frame = cv2.imread(str(cases[0].image_path), cv2.IMREAD_GRAYSCALE)
    assert frame is not None
    grey = cv2.resize(frame.astype(np.float32), (SIZE, SIZE)) / 255.0
    np.testing.assert_allclose(earlier.image[0].numpy(), grey, rtol=0, atol=GREY_TOLERANCE)
    expected = high_frequency_image(frame.astype(np.uint8), (SIZE, SIZE)) / 255.0
    np.testing.assert_allclose(
        earlier.high_frequency[0].numpy(), expected, rtol=0, atol=HIGH_FREQUENCY_TOLERANCE
    )


def test_validation_prompts_are_in_the_model_frame(cases: list[UltrasoundCase]) -> None:
    """benign (1): rows 10:30 and columns 20:60 of 80x60 pixels, so 16 to 48 and 11 to 32 of 64."""
    sample = dataset(cases, None)[0]
    assert cases[0].key == "benign/benign (1)"
    assert sample.click[0].tolist() == pytest.approx([31.5, (19.5 + 0.5) * 64 / 60 - 0.5])
    exact = np.array([[20 + 0.5, 10 + 0.5], [59 + 0.5, 29 + 0.5]]) * (64 / 80, 64 / 60) - 0.5
    jitter = 0.05 * np.array([40 * 64 / 80, 20 * 64 / 60])
    assert (np.abs(sample.box.numpy() - exact) <= jitter + 1e-4).all()
    rows, columns = np.nonzero(sample.mask[0].numpy())
    assert (columns.min(), columns.max()) == (16, 47)
    assert abs(int(rows.min()) - 10.67) <= 1 and abs(int(rows.max()) - 31) <= 1


def test_each_lesion_of_a_case_gets_its_turn(cases: list[UltrasoundCase]) -> None:
    still = AugmentationConfig(
        **{
            field.name: 1.0 if field.name == "min_resolution" else 0.0
            for field in dataclasses.fields(AugmentationConfig)
        }
    )
    data = dataset(cases, still)
    index = data.keys.index("benign/benign (2)")  # 40x20 pixels and 20x10 pixels
    areas = []
    for epoch in range(12):
        data.epoch = epoch
        areas.append(float(data[index].mask.mean()) * 80 * 60)
    # at 64x64 an edge may be off by half a pixel
    assert min(areas) == pytest.approx(20 * 10, rel=0.1)
    assert max(areas) == pytest.approx(40 * 20, rel=0.1)


def test_a_click_is_on_the_augmented_lesion(cases: list[UltrasoundCase]) -> None:
    data = dataset(cases, AugmentationConfig())
    for epoch in range(3):
        data.epoch = epoch
        for index in range(5):
            sample = data[index]
            x, y = sample.click[0].int().tolist()
            assert sample.mask[0, y, x] == 1.0


def test_a_lesion_that_leaves_the_frame_is_shown_unmoved(cases: list[UltrasoundCase]) -> None:
    """With shifts of many sides hardly any try keeps the lesion inside."""
    data = dataset(cases, AugmentationConfig(translation=1000.0))
    assert all(float(data[index].mask.sum()) >= 24 for index in range(5))


def test_a_batch_stacks_every_field(cases: list[UltrasoundCase]) -> None:
    data = dataset(cases, None)
    batch = collate([data[0], data[1]])
    assert batch.image.shape == (2, 1, SIZE, SIZE)
    assert batch.box.shape == (2, 2, 2)
    for field in dataclasses.fields(TrainingSample):
        stacked = getattr(batch, field.name)
        assert torch.equal(stacked[1], getattr(data[1], field.name))


def test_cases_without_a_lesion_are_named(fake_busi: Path, cases: list[UltrasoundCase]) -> None:
    empty = fake_busi / "benign" / "benign (10)_mask.png"
    assert cv2.imwrite(str(empty), np.zeros((61, 81), dtype=np.uint8))
    normal = [case for case in list_cases(fake_busi) if case.class_name == "normal"]
    with pytest.raises(DataError, match=r"got benign/benign \(10\), normal/normal \(1\)"):
        dataset([*cases, *normal], None)
