"""Decoding the files of a case, with BUSI's oddities, label maps and JPEG masks."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.data.case import (
    CaseCache,
    UltrasoundCase,
    read_image,
    read_instances,
    select_lesions,
    separate_lesions,
)
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError, OutputFileError


@pytest.fixture
def cache(tmp_path: Path) -> CaseCache:
    """In a folder that does not exist yet."""
    return CaseCache(tmp_path / "new" / "cache")


def same(cache: CaseCache, case: UltrasoundCase) -> bool:
    image, instances = cache.image(case), cache.instances(case)
    assert image.dtype == np.uint8 and image.flags.writeable  # torch.from_numpy wants both
    assert all(mask.dtype == np.bool_ and mask.flags.writeable for mask in instances)
    expected = read_instances(case)
    return (
        np.array_equal(image, read_image(case))
        and len(instances) == len(expected)
        and all(np.array_equal(*both) for both in zip(instances, expected, strict=True))
    )


def test_what_is_read_is_what_is_decoded(
    cache: CaseCache, fake_busi: Path, fake_us30k: Path, fake_folders: Path
) -> None:
    # sizes whose pixels do not fill whole bytes, several lesions, none, and label maps
    for root in (fake_busi, fake_us30k, fake_folders):
        for case in list_cases(root):
            assert same(cache, case)  # decoded
            assert same(cache, case)  # read


def test_cached_cases_are_not_decoded_again(cache: CaseCache, fake_busi: Path) -> None:
    case = list_cases(fake_busi)[0]
    image = cache.image(case)
    status = case.image_path.stat()
    # damaged, but of the same size and time: only reading it would tell
    case.image_path.write_bytes(b"x" * status.st_size)
    os.utime(case.image_path, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(cache.image(case), image)


def test_a_changed_file_is_decoded_again(cache: CaseCache, fake_busi: Path) -> None:
    case = list_cases(fake_busi)[0]
    cache.image(case)
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[1, 2] = 255
    assert cv2.imwrite(str(case.mask_paths[0]), mask)
    assert same(cache, case)
    assert cache.instances(case)[0].sum() == 1
    assert len(list(cache.folder.iterdir())) == 1  # in place of the old one


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"SEC0" + content[4:],
    ],
)
def test_a_damaged_cache_file_is_made_again(
    cache: CaseCache, fake_busi: Path, damage: Callable[[bytes], bytes]
) -> None:
    case = list_cases(fake_busi)[0]
    cache.image(case)
    path = cache.path(case)
    path.write_bytes(damage(path.read_bytes()))
    assert same(cache, case)


def test_classes_of_one_label_map_are_kept_apart(cache: CaseCache, fake_us30k: Path) -> None:
    one, two = list_cases(fake_us30k, ["Echo:1/e1", "Echo:2/e1"])
    assert cache.path(one) != cache.path(two)
    assert not np.array_equal(cache.instances(one)[0], cache.instances(two)[0])


def test_filling_names_every_broken_case_and_keeps_the_others(
    cache: CaseCache, fake_busi: Path
) -> None:
    cases = list_cases(fake_busi)
    cases[0].image_path.unlink()
    cases[3].mask_paths[0].write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        cache.fill(cases)
    assert cases[0].image_path.name in str(caught.value)
    assert cases[3].mask_paths[0].name in str(caught.value)
    assert len(list(cache.folder.iterdir())) == 4
    seen: list[str] = []
    whole = [case for case in cases if case not in (cases[0], cases[3])]
    assert cache.fill(whole, on_case=lambda case: seen.append(case.key)) == 0
    assert seen == [case.key for case in whole]
    with pytest.raises(DataError, match=r"Case 'benign/benign \(1\)' is broken"):
        cache.image(cases[0])


def test_a_folder_that_cannot_be_made_or_written_is_named(
    cache: CaseCache, fake_busi: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cache folder .*file/cache cannot be created"):
        CaseCache(tmp_path / "file" / "cache")
    cache.folder.rmdir()
    with pytest.raises(OutputFileError, match=r"\.case cannot be written"):
        cache.image(list_cases(fake_busi)[0])


def test_select_lesions_drops_normal_images(fake_busi: Path) -> None:
    assert {case.class_name for case in select_lesions(list_cases(fake_busi))} == {
        "benign",
        "malignant",
    }


def test_coloured_callipers_become_grey_with_opencv_weights(fake_busi: Path) -> None:
    case = list_cases(fake_busi, ["malignant/malignant (1)"])[0]
    image = read_image(case)
    assert image.shape == (70, 50)
    assert image.dtype == np.uint8
    assert image[5, 5] == 76  # pure red: 0.299 * 255 = 76.2
    stored = cv2.imread(str(case.image_path), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert (image[6:] == stored[6:, :, 0]).all()  # grey stored as colour stays what it was


def test_each_mask_file_is_an_instance_rgba_included(fake_busi: Path) -> None:
    instances = read_instances(list_cases(fake_busi, ["benign/benign (2)"])[0])
    expected = np.zeros((2, 60, 80), dtype=np.bool_)
    expected[0, 10:30, 20:60] = True
    expected[1, 40:50, 5:25] = True  # the opaque alpha channel does not count as lesion
    np.testing.assert_array_equal(instances, expected)
    assert instances[0].dtype == np.bool_


@pytest.mark.parametrize(
    ("key", "count"), [("malignant/malignant (2)", 1), ("normal/normal (1)", 0)]
)
def test_empty_mask_files_contribute_nothing(fake_busi: Path, key: str, count: int) -> None:
    assert len(read_instances(list_cases(fake_busi, [key])[0])) == count


def test_any_value_but_black_is_lesion(fake_busi: Path) -> None:
    path = fake_busi / "benign" / "benign (1)_mask.png"
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[3, 4] = 1
    assert cv2.imwrite(str(path), mask)
    instances = read_instances(list_cases(fake_busi, ["benign/benign (1)"])[0])
    np.testing.assert_array_equal(instances, [mask == 1])


def test_a_mask_of_another_size_raises_and_names_both_files(fake_busi: Path) -> None:
    _write_mask(fake_busi / "benign" / "benign (1)_mask.png", (80, 60))
    case = list_cases(fake_busi, ["benign/benign (1)"])[0]
    with pytest.raises(DataError) as caught:
        read_instances(case)
    message = str(caught.value)
    assert "benign (1)_mask.png is 60x80" in message
    assert "benign (1).png is 80x60" in message


def test_a_file_removed_after_listing_raises(fake_busi: Path) -> None:
    case = list_cases(fake_busi, ["benign/benign (1)"])[0]
    case.image_path.unlink()
    with pytest.raises(DataError, match=r"benign \(1\)\.png"):
        read_image(case)


def _write_mask(path: Path, image_hw: tuple[int, int]) -> None:
    assert cv2.imwrite(str(path), np.full(image_hw, 255, dtype=np.uint8))


def test_the_class_is_what_stands_before_the_last_slash() -> None:
    classes = {
        key: UltrasoundCase(key, Path("image.png"), ()).class_name
        for key in ("benign/benign (1)", "Echocardiography-CAMUS:2/0055_2CH_000", "plain")
    }
    assert list(classes.values()) == ["benign", "Echocardiography-CAMUS:2", "lesion"]


def test_a_label_map_gives_the_pixels_of_its_value(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [2, 2, 0]], dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "label.png"), labels)
    assert cv2.imwrite(str(tmp_path / "image.png"), np.full((2, 3), 9, np.uint8))
    files = (tmp_path / "image.png", (tmp_path / "label.png",))
    for value, count in ((1, 1), (2, 3)):
        (mask,) = read_instances(UltrasoundCase("a", *files, label_value=value))
        np.testing.assert_array_equal(mask, labels == value)
        assert mask.sum() == count
    assert read_instances(UltrasoundCase("a", *files, label_value=3)) == []


def test_a_label_map_is_no_mask_and_its_labels_are_named(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [3, 3]], dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "label.png"), labels)
    assert cv2.imwrite(str(tmp_path / "image.png"), labels)
    case = UltrasoundCase("a", tmp_path / "image.png", (tmp_path / "label.png",))
    with pytest.raises(DataError, match=r"label\.png holds the labels 1, 3"):
        read_instances(case)


def test_smooth_edges_of_a_mask_are_no_labels(tmp_path: Path) -> None:
    mask = np.array([[0, 3, 255], [0, 9, 255]], dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "mask.png"), mask)
    case = UltrasoundCase("a", tmp_path / "mask.png", (tmp_path / "mask.png",))
    np.testing.assert_array_equal(read_instances(case)[0], mask > 0)


def test_jpeg_masks_are_cut_at_half_grey(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    cv2.circle(mask, (32, 32), 20, 255, -1)
    path = tmp_path / "mask.jpg"
    assert cv2.imwrite(str(path), mask, [cv2.IMWRITE_JPEG_QUALITY, 60])
    stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert stored is not None and ((stored > 0) & (mask == 0)).sum() > 50  # the edges are smeared
    (read,) = read_instances(UltrasoundCase("a", path, (path,)))
    assert (read != (mask > 0)).sum() <= 10


def discs(*centres: tuple[int, int], radius: int = 20) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[:100, :140]
    found = [(columns - x) ** 2 + (rows - y) ** 2 <= radius**2 for x, y in centres]
    return np.asarray(np.logical_or.reduce(found))


@pytest.mark.parametrize(
    "centres",
    [
        [(40, 50)],
        [(30, 50), (90, 50)],  # apart
        [(40, 50), (74, 50)],  # they overlap by 6 pixels
        [(40, 40), (76, 40), (58, 72)],
    ],
)
def test_touching_lesions_of_one_file_are_cut_apart(centres: list[tuple[int, int]]) -> None:
    mask = discs(*centres)
    parts = separate_lesions(mask)
    assert len(parts) == len(centres)
    assert np.sum(parts, axis=0).max() == 1  # none overlaps another
    assert (mask & ~np.logical_or.reduce(parts)).sum() <= 0.02 * mask.sum()
    for x, y in centres:
        (part,) = (part for part in parts if part[y, x])
        disc = discs((x, y))
        assert 2 * (part & disc).sum() / (part.sum() + disc.sum()) > 0.95


def test_a_long_lesion_is_not_cut() -> None:
    rows, columns = np.ogrid[:100, :140]
    ellipse = ((columns - 70) / 60) ** 2 + ((rows - 50) / 15) ** 2 <= 1
    assert [part.sum() for part in separate_lesions(ellipse)] == [ellipse.sum()]
