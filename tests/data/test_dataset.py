"""Finding the layout of a folder, and its subsets."""

from pathlib import Path

import pytest

from samus_edge.data.dataset import list_cases, load_subsets, scan_dataset
from samus_edge.errors import DataError


def test_the_layout_is_found_by_what_is_in_the_folder(
    fake_busi: Path, fake_us30k: Path, fake_folders: Path
) -> None:
    roots = (fake_busi, fake_us30k, fake_folders)
    assert [scan_dataset(root).layout for root in roots] == ["busi", "us30k", "folders"]


def test_a_folder_of_no_layout_says_what_the_three_are(tmp_path: Path) -> None:
    (tmp_path / "some.png").write_bytes(b"")
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as caught:
            list_cases(root)
        message = str(caught.value)
        assert str(root) in message
        for layout in ("MainPatient/class.json", "images/NAME and masks/NAME", "NAME_mask.png"):
            assert layout in message


def test_a_named_layout_must_exist_and_fit(fake_busi: Path) -> None:
    assert len(list_cases(fake_busi, layout="busi")) == 6
    with pytest.raises(DataError, match="does not fit the layout 'us30k'"):
        list_cases(fake_busi, layout="us30k")
    with pytest.raises(ValueError, match="auto, us30k, folders, busi, got 'coco'"):
        list_cases(fake_busi, layout="coco")


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="layout 'folders', but holds no image"):
        list_cases(tmp_path)


def test_subsets_come_from_the_split_file(fake_busi: Path, fake_split: Path) -> None:
    subsets = load_subsets(fake_busi, fake_split)
    train = ["benign/benign (1)", "benign/benign (10)", "normal/normal (1)"]
    assert [case.key for case in subsets.train] == train
    assert [case.key for case in subsets.get("val")] == ["malignant/malignant (2)"]
    assert len(subsets.test) == 2
    assert subsets.groups == {
        "benign/benign (1)": 0,
        "benign/benign (10)": 0,
        "benign/benign (2)": 1,
    }


def test_files_of_a_subset_that_is_not_needed_may_be_missing(
    fake_busi: Path, fake_split: Path
) -> None:
    (fake_busi / "benign" / "benign (2).png").unlink()
    assert load_subsets(fake_busi, fake_split, names=("train", "val")).test == []
    with pytest.raises(DataError, match=r"no image for 'benign/benign \(2\)'"):
        load_subsets(fake_busi, fake_split)


def test_without_subsets_the_error_says_how_to_make_them(fake_busi: Path) -> None:
    with pytest.raises(DataError, match=r"names no train, val and test .*samus-edge data split"):
        load_subsets(fake_busi)


def test_unknown_subsets_are_named(fake_busi: Path, fake_split: Path) -> None:
    with pytest.raises(ValueError, match="train, val, test, got tests"):
        load_subsets(fake_busi, fake_split, names=("train", "tests"))
