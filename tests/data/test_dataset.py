"""Finding the layout of a folder, and its subsets."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.data.case import read_image, read_instances, select_lesions
from samus_edge.data.dataset import list_cases, load_subsets, scan_dataset
from samus_edge.data.splitting import load_groups, load_split
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


def test_a_case_is_an_image_with_one_class(fake_us30k: Path) -> None:
    cases = {case.key: case for case in list_cases(fake_us30k)}
    assert set(cases) == {
        *("Breast/b1", "Breast/b2", "Breast/b3"),
        *("Echo:1/e1", "Echo:2/e1", "Echo:1/e2", "Echo:1/e3"),
    }
    assert cases["Echo:2/e1"].image_path == fake_us30k / "Echo" / "img" / "e1.png"
    label = cv2.imread(str(fake_us30k / "Echo" / "label" / "e1.png"), cv2.IMREAD_UNCHANGED)
    assert label is not None and set(np.unique(label)) == {0, 1, 2}
    for value in (1, 2):
        (mask,) = read_instances(cases[f"Echo:{value}/e1"])
        np.testing.assert_array_equal(mask, label == value)
        assert mask.any()


def test_with_two_classes_255_is_class_1(fake_us30k: Path) -> None:
    (case,) = list_cases(fake_us30k, ["Breast/b1"])
    label = cv2.imread(str(fake_us30k / "Breast" / "label" / "b1.png"), cv2.IMREAD_UNCHANGED)
    assert label is not None and set(np.unique(label)) == {0, 255}
    np.testing.assert_array_equal(read_instances(case)[0], label == 255)


def test_its_own_text_files_are_the_subsets(fake_us30k: Path) -> None:
    subsets = load_subsets(fake_us30k)
    assert [case.key for case in subsets.train] == ["Breast/b1", "Echo:1/e1", "Echo:2/e1"]
    assert [case.key for case in subsets.val] == ["Breast/b2", "Echo:1/e2"]
    # lines of a test file have no class: 1, unless it is given
    assert [case.key for case in subsets.test] == ["Breast/b3", "Echo:1/e3"]
    assert subsets.groups["Echo:1/e1"] == subsets.groups["Echo:2/e1"]  # one image
    assert subsets.groups["Echo:1/e1"] != subsets.groups["Echo:1/e2"]


def test_a_file_of_a_task_stands_for_its_subsets(fake_us30k: Path) -> None:
    task = fake_us30k / "MainPatient" / "train-Breast.txt"
    subsets = load_subsets(fake_us30k, task, names=("train", "test"))
    assert [case.key for case in subsets.train] == ["Breast/b1"]
    assert [case.key for case in subsets.test] == ["Breast/b3"]
    with pytest.raises(DataError, match=r"lacks val-Breast\.txt\. Other tasks there: Breast;"):
        load_subsets(fake_us30k, task)


def test_a_split_file_overrules_the_text_files(fake_us30k: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["Breast/b3"], "val": [], "test": ["Echo:1/e1"]}))
    subsets = load_subsets(fake_us30k, path)
    assert [case.key for case in subsets.train] == ["Breast/b3"]
    assert [case.key for case in subsets.test] == ["Echo:1/e1"]
    path.write_text(json.dumps({"train": ["Breast/b99"], "val": [], "test": []}))
    with pytest.raises(DataError, match=r"no line of .*MainPatient/\*\.txt names 'Breast/b99'"):
        load_subsets(fake_us30k, path)


def test_broken_lines_are_all_reported_with_their_place(fake_us30k: Path) -> None:
    (fake_us30k / "Echo" / "label" / "e2.png").unlink()
    path = fake_us30k / "MainPatient" / "train.txt"
    broken = ["Breast/b1", "1/Liver/l1", "2/Breast/b1", "x/Echo/e1", "0/Echo/e1", "1/Breast/b7"]
    path.write_text("\n".join(["1/Breast/b1", "", *broken, "1/a/b/c", "1/Echo/e2"]))
    with pytest.raises(DataError) as caught:
        load_subsets(fake_us30k, names=("train",))
    message = str(caught.value)
    for expected in (
        "train.txt, line 3: 'Breast/b1' must be class/dataset/file",
        "line 4: the dataset 'Liver' is not in class.json, which has Breast, Echo",
        "line 5: the class '2' of Breast must be an integer from 1 to 1",
        "line 6: the class 'x' of Echo must be an integer from 1 to 3",
        "line 7: the class '0' of Echo must be an integer from 1 to 3",
        f"{Path('Breast/img/b7.png')} does not exist and ",
        f"{Path('Breast/label/b7.png')} does not exist",
        "line 9: '1/a/b/c' must be class/dataset/file",
        f"{Path('Echo/label/e2.png')} does not exist",
    ):
        assert expected in message
    assert message.startswith("8 case(s)") and "line 1:" not in message and "line 2:" not in message


def test_an_image_in_two_subsets_is_a_leak_even_with_another_class(fake_us30k: Path) -> None:
    with (fake_us30k / "MainPatient" / "val.txt").open("a", encoding="utf-8") as file:
        file.write("\n3/Echo/e1\n")
    with pytest.raises(DataError, match=r"leak .*samus-edge data split.* in train and val"):
        load_subsets(fake_us30k)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"Breast": 1}', '{"Breast": "2"}', '{"Breast": true}']
)
def test_a_class_file_that_is_none_raises_and_says_what_it_must_hold(
    fake_us30k: Path, content: str
) -> None:
    (fake_us30k / "MainPatient" / "class.json").write_text(content)
    with pytest.raises(DataError, match=r"class\.json.*number of classes of each dataset"):
        list_cases(fake_us30k)


def test_a_subset_file_that_is_no_text_raises_and_is_named(fake_us30k: Path) -> None:
    (fake_us30k / "MainPatient" / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"Cannot read .*val\.txt"):
        list_cases(fake_us30k)


def test_a_folder_is_listed_with_numbers_in_order(fake_busi: Path) -> None:
    cases = list_cases(fake_busi)
    assert [case.key for case in cases] == [
        "benign/benign (1)",
        "benign/benign (2)",
        "benign/benign (10)",
        "malignant/malignant (1)",
        "malignant/malignant (2)",
        "normal/normal (1)",
    ]
    assert [case.class_name for case in cases[2:4]] == ["benign", "malignant"]


def test_keys_are_listed_in_the_order_given_with_all_their_masks(fake_busi: Path) -> None:
    cases = list_cases(fake_busi, ["malignant/malignant (1)", "benign/benign (2)"])
    assert [case.key for case in cases] == ["malignant/malignant (1)", "benign/benign (2)"]
    assert cases[1].image_path == fake_busi / "benign" / "benign (2).png"
    assert [path.name for path in cases[1].mask_paths] == [
        "benign (2)_mask.png",
        "benign (2)_mask_1.png",
    ]


def test_a_key_does_not_take_the_masks_of_a_longer_number(fake_busi: Path) -> None:
    case = list_cases(fake_busi, ["benign/benign (1)"])[0]
    assert [path.name for path in case.mask_paths] == ["benign (1)_mask.png"]


def test_mask_files_are_ordered_by_number(fake_busi: Path) -> None:
    first = (fake_busi / "benign" / "benign (1)_mask.png").read_bytes()
    for index in (10, 2, 1):
        (fake_busi / "benign" / f"benign (1)_mask_{index}.png").write_bytes(first)
    case = list_cases(fake_busi, ["benign/benign (1)"])[0]
    assert [path.stem[11:] for path in case.mask_paths] == ["mask", "mask_1", "mask_2", "mask_10"]


def test_missing_files_are_all_named_in_one_error(fake_busi: Path) -> None:
    (fake_busi / "benign" / "benign (1)_mask.png").unlink()
    with pytest.raises(DataError) as caught:
        list_cases(fake_busi, ["benign/benign (1)", "benign/benign (2)", "benign/benign (77)"])
    message = str(caught.value)
    assert "no mask for 'benign/benign (1)'" in message
    assert "no image for 'benign/benign (77)'" in message
    assert "benign (2)" not in message


@pytest.mark.parametrize(
    "key", ["../secret", "benign", "/etc/passwd", "benign/../benign/benign (1)"]
)
def test_keys_cannot_leave_the_folder(fake_busi: Path, key: str) -> None:
    (fake_busi.parent / "secret.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image for"):
        list_cases(fake_busi, [key])


def test_the_real_split_has_its_counts_and_does_not_leak(busi_root: Path, busi_split: Path) -> None:
    split = load_split(busi_split)  # raises on a leak
    groups = load_groups(busi_split)
    listed = {subset: list_cases(busi_root, keys) for subset, keys in split.items()}
    assert {subset: len(cases) for subset, cases in listed.items()} == {
        "train": 468,
        "val": 78,
        "test": 156,
    }
    lesions = {subset: len(select_lesions(cases)) for subset, cases in listed.items()}
    assert lesions == {"train": 388, "val": 65, "test": 129}
    of_groups = [{groups[key] for key in keys} for keys in split.values()]
    assert not (of_groups[0] & of_groups[1] or of_groups[0] & of_groups[2])
    assert not of_groups[1] & of_groups[2]


def test_a_mask_without_an_image_is_named(fake_busi: Path) -> None:
    (fake_busi / "benign" / "benign (1).png").unlink()
    with pytest.raises(DataError, match=r"no image for 'benign/benign \(1\)'"):
        list_cases(fake_busi)
    assert len(list_cases(fake_busi, ["benign/benign (2)"])) == 1  # nobody asked for the other


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
