"""Training samples: what the model will see, fixed by seed, epoch and index."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase, select_lesions
from samus_edge.data.collection import DatasetConfig
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError
from samus_edge.high_frequency import high_frequency_image
from samus_edge.training.training_samples import LesionDataset, TrainingSample, collate

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
    cases: list[UltrasoundCase],
    augmentation: AugmentationConfig | None,
    seed: int = 0,
    **more: Any,
) -> LesionDataset:
    return LesionDataset(cases, image_size=SIZE, augmentation=augmentation, seed=seed, **more)


def still() -> AugmentationConfig:
    """No augmentation at all."""
    return AugmentationConfig(
        **{
            field.name: 1.0 if field.name == "min_resolution" else 0.0
            for field in dataclasses.fields(AugmentationConfig)
        }
    )


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
            images = (sample.image, sample.high_frequency, sample.mask)
            for image in images:
                assert image.shape == (1, SIZE, SIZE) and image.dtype == torch.float32
                assert float(image.min()) >= 0.0 and float(image.max()) <= 1.0 + 1e-6
            assert set(sample.mask.flatten().tolist()) == {0.0, 1.0}
            assert sample.box.shape == (2, 2) and sample.box.dtype == torch.float32
            assert sample.clicks.shape == (3, 2) and sample.clicks.dtype == torch.float32
            assert sample.background_click.shape == (1, 2)
            assert sample.background_label.tolist() == [0.0]


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
    for click in sample.clicks:
        assert click.tolist() == pytest.approx([31.5, (19.5 + 0.5) * 64 / 60 - 0.5])
    exact = np.array([[20 + 0.5, 10 + 0.5], [59 + 0.5, 29 + 0.5]]) * (64 / 80, 64 / 60) - 0.5
    jitter = 0.05 * np.array([40 * 64 / 80, 20 * 64 / 60])
    assert (np.abs(sample.box.numpy() - exact) <= jitter + 1e-4).all()
    rows, columns = np.nonzero(sample.mask[0].numpy())
    assert (columns.min(), columns.max()) == (16, 47)
    assert abs(int(rows.min()) - 10.67) <= 1 and abs(int(rows.max()) - 31) <= 1


def test_each_lesion_of_a_case_gets_its_turn(cases: list[UltrasoundCase]) -> None:
    data = dataset(cases, still())
    index = [case.key for case in cases].index("benign/benign (2)")  # 40x20 pixels and 20x10 pixels
    areas = []
    for epoch in range(12):
        data.epoch = epoch
        areas.append(float(data[index].mask.mean()) * 80 * 60)
    # at 64x64 an edge may be off by half a pixel
    assert min(areas) == pytest.approx(20 * 10, rel=0.1)
    assert max(areas) == pytest.approx(40 * 20, rel=0.1)


def test_clicks_are_on_the_augmented_lesion_and_one_is_off_it(cases: list[UltrasoundCase]) -> None:
    data = dataset(cases, AugmentationConfig())
    for epoch in range(3):
        data.epoch = epoch
        for index in range(5):
            sample = data[index]
            for x, y in sample.clicks.int().tolist():
                assert sample.mask[0, y, x] == 1.0
            x, y = sample.background_click[0].int().tolist()
            assert sample.mask[0, y, x] == 0.0


def test_the_clicks_of_a_sample_differ(cases: list[UltrasoundCase]) -> None:
    data = dataset(cases, AugmentationConfig())
    clicks = [{tuple(click) for click in data[index].clicks.tolist()} for index in range(5)]
    assert sum(len(found) for found in clicks) > 12  # of 15; two may hit one pixel


def test_normals_come_last_with_an_empty_mask_and_prompts_all_the_same(
    fake_busi: Path, cases: list[UltrasoundCase]
) -> None:
    normals = [case for case in list_cases(fake_busi) if case.class_name == "normal"]
    plain = dataset(cases, AugmentationConfig())
    data = dataset(cases, AugmentationConfig(), normal_cases=normals)
    assert (len(plain), len(data)) == (5, 6)
    assert all(same(data[index], plain[index]) for index in range(5))
    boxes = []
    for epoch in range(5):
        data.epoch = epoch
        sample = data[5]
        assert not sample.mask.any()
        (left, top), (right, bottom) = sample.box.tolist()
        assert 0 <= left < right <= SIZE - 1 and 0 <= top < bottom <= SIZE - 1
        for x, y in sample.clicks.tolist():  # in the box, but for its jitter
            assert left - SIZE / 8 <= x <= right + SIZE / 8
            assert top - SIZE / 8 <= y <= bottom + SIZE / 8
        assert sample.background_label.tolist() == [0.0]
        boxes.append((left, top, right, bottom))
    assert len(set(boxes)) == 5


def test_a_lesion_that_leaves_the_frame_is_shown_unmoved(cases: list[UltrasoundCase]) -> None:
    """With shifts of many sides hardly any try keeps the lesion inside."""
    data = dataset(cases, AugmentationConfig(translation=1000.0))
    assert all(float(data[index].mask.sum()) >= 24 for index in range(5))


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (5, 17)])
def test_the_order_is_that_of_a_shuffling_data_loader(
    cases: list[UltrasoundCase], seed: int, epoch: int
) -> None:
    """With the seed that earlier trainings gave to torch's own loader."""
    data = dataset(cases * 20, None, seed)
    data.epoch = epoch
    loader: DataLoader[int] = DataLoader(
        range(len(data)),  # type: ignore[arg-type]  # a sequence is a dataset
        shuffle=True,
        generator=torch.Generator().manual_seed(seed * 100_003 + epoch),
    )
    assert data.order() == [int(index) for index in loader]


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


def test_datasets_come_as_often_as_their_weights_say_and_never_twice_the_same(
    cases: list[UltrasoundCase],
) -> None:
    names = ("often", "often", "seldom", "seldom", "once")
    named = [dataclasses.replace(c, dataset=n) for c, n in zip(cases, names, strict=True)]
    datasets = [
        DatasetConfig("often", weight=2.5),
        DatasetConfig("seldom", weight=0.5),
        DatasetConfig("once"),
    ]
    data = dataset(named, AugmentationConfig(), datasets=datasets)
    assert len(data) == 2 * 2 + 1 + 1 + 1
    orders = []
    for data.epoch in range(6):
        order = data.order()
        assert len(set(order)) == len(order) == len(data)
        counts = Counter(names[index % 5] for index in order)
        assert counts == {"often": 5, "seldom": 1, "once": 1}
        orders.append(order)
    assert len(set(map(tuple, orders))) == 6
    assert {index % 5 for order in orders for index in order if index % 5 in (2, 3)} == {2, 3}
    assert not same(data[0], data[5])  # the first case, in two passes
    plain = dataset(cases, AugmentationConfig())
    unweighted = dataset(named, AugmentationConfig(), datasets=[DatasetConfig("once")])
    assert unweighted.order() == plain.order() and same(unweighted[3], plain[3])


def test_a_window_shows_the_whole_lesion_larger(cases: list[UltrasoundCase]) -> None:
    """benign (1): 40x20 of 80x60 pixels; margins of 0.15 to 1 of its sides on each side."""
    named = [dataclasses.replace(case, dataset="cropped") for case in cases]
    crop = DatasetConfig("cropped", crop_probability=1.0)
    data = dataset(named, still(), datasets=[crop])
    for data.epoch in range(8):
        mask = data[0].mask[0] > 0
        share = float(mask.float().mean())
        assert share > 800 / (80 * 60) + 0.02 and share < 1 / 1.3**2
        rows, columns = (np.flatnonzero(mask.any(dim=axis).numpy()) for axis in (1, 0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.float().mean() > 0.98  # the corners of a resized rectangle are round
        assert min(rows[0], columns[0]) > 0 and max(rows[-1], columns[-1]) < SIZE - 1
