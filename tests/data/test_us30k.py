"""US30K's layout: a tree as SAMUS's example folder has it, and every kind of broken line."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.data.case import read_instances
from samus_edge.data.dataset import list_cases, load_subsets
from samus_edge.errors import DataError


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
