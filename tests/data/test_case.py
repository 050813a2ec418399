"""Decoding the files of a case, with BUSI's oddities, label maps and JPEG masks."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError


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
