"""The plain layout: images/ and masks/ with the same names."""

from pathlib import Path

import numpy as np
import pytest

from samus_edge.data.case import read_image, read_instances
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError


def test_images_and_masks_are_paired_by_name(fake_folders: Path) -> None:
    cases = {case.key: case for case in list_cases(fake_folders)}
    assert list(cases) == ["case_2", "case_10", "cyst/c1", "normal/n1", "scan_1"]
    names = {key: [path.name for path in case.mask_paths] for key, case in cases.items()}
    assert names == {
        "case_2": ["case_2.png", "case_2_1.bmp"],
        "case_10": ["case_10.tif"],
        "scan_1": ["scan_1.png"],
        "cyst/c1": ["c1.png"],
        "normal/n1": [],
    }
    assert cases["case_10"].image_path.name == "case_10.JPG"
    classes = [case.class_name for case in cases.values()]
    assert classes == ["lesion", "lesion", "cyst", "normal", "lesion"]


def test_files_of_all_formats_are_decoded(fake_folders: Path) -> None:
    for case in list_cases(fake_folders):
        assert read_image(case).shape == (40, 50)
        masks = read_instances(case)
        assert len(masks) == len(case.mask_paths)
        for mask in masks:
            assert mask.any() and mask.shape == (40, 50) and mask.dtype == np.bool_


def test_a_number_belongs_to_the_image_of_that_name_first(fake_folders: Path) -> None:
    # Now case_2_1 is an image of its own, so its mask is no longer case_2's second lesion.
    images = fake_folders / "images"
    (images / "case_2_1.png").write_bytes((images / "case_2.png").read_bytes())
    cases = {case.key: case for case in list_cases(fake_folders)}
    assert [path.name for path in cases["case_2"].mask_paths] == ["case_2.png"]
    assert [path.name for path in cases["case_2_1"].mask_paths] == ["case_2_1.bmp"]


def test_everything_that_does_not_pair_is_named_in_one_error(fake_folders: Path) -> None:
    images, masks = fake_folders / "images", fake_folders / "masks"
    (masks / "scan_1.png").unlink()
    (images / "case_10.png").write_bytes((images / "case_2.png").read_bytes())
    (masks / "lonely.png").write_bytes((masks / "case_2.png").read_bytes())
    (masks / "cyst" / "c1.bmp").write_bytes((masks / "case_2_1.bmp").read_bytes())
    with pytest.raises(DataError) as caught:
        list_cases(fake_folders)
    message = str(caught.value)
    assert f"no mask for 'scan_1' (expected {masks / 'scan_1'}.png)" in message
    assert "several images of one name: " in message and "case_10.JPG" in message
    assert f"no image for the mask {masks / 'lonely.png'}" in message
    assert "several masks of one name: " in message and "c1.bmp" in message
    assert message.startswith("4 case(s)") and "case_2" not in message


def test_hidden_and_other_files_are_passed_over(fake_folders: Path) -> None:
    (fake_folders / "images" / ".DS_Store").write_bytes(b"x")
    (fake_folders / "images" / "._case_2.png").write_bytes(b"x")
    (fake_folders / "images" / "notes.txt").write_text("x")
    assert len(list_cases(fake_folders)) == 5
