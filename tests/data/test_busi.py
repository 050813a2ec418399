"""Reading BUSI: a small fake folder with its oddities, and the real one where it is at hand."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.data.busi import (
    check_cases,
    list_cases,
    load_groups,
    load_split,
    read_image,
    read_instances,
    select_lesions,
)
from samus_edge.errors import DataError


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


def test_a_wrong_folder_says_which_one_is_meant(fake_busi: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist\. Pass the folder that contains"):
        list_cases(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"No PNG image found .* Pass the folder that contains"):
        list_cases(fake_busi / "benign")


def test_check_cases_passes_a_sound_folder(fake_busi: Path) -> None:
    check_cases(list_cases(fake_busi))


def test_check_cases_names_every_broken_file(fake_busi: Path) -> None:
    image = fake_busi / "benign" / "benign (1).png"
    image.write_bytes(image.read_bytes()[:200])
    (fake_busi / "benign" / "benign (2)_mask_1.png").write_bytes(b"")
    (fake_busi / "malignant" / "malignant (1).png").write_text("not an image")
    _write_mask(fake_busi / "benign" / "benign (10)_mask.png", (60, 80))
    cv2.imwrite(
        str(fake_busi / "malignant" / "malignant (2)_mask.png"), np.zeros((64, 64), np.uint8)
    )
    with pytest.raises(DataError) as caught:
        check_cases(list_cases(fake_busi))
    message = str(caught.value)
    for name in (
        "benign (1).png",
        "benign (2)_mask_1.png",
        "malignant (1).png",
        "benign (10)_mask.png is 80x60",
        "every mask of 'malignant/malignant (2)' is empty",
    ):
        assert name in message
    assert "normal" not in message


def test_a_file_removed_after_listing_raises(fake_busi: Path) -> None:
    case = list_cases(fake_busi, ["benign/benign (1)"])[0]
    case.image_path.unlink()
    with pytest.raises(DataError, match=r"benign \(1\)\.png"):
        read_image(case)


def test_a_split_file_gives_the_keys_of_each_subset(fake_split: Path) -> None:
    split = load_split(fake_split)
    assert list(split) == ["train", "val", "test"]
    assert split["test"] == ["benign/benign (2)", "malignant/malignant (1)"]
    assert load_groups(fake_split)["benign/benign (10)"] == 0


def test_a_split_file_without_groups_has_none(fake_split: Path) -> None:
    _edit(fake_split, lambda document: document.pop("groups"))
    assert load_groups(fake_split) == {}
    load_split(fake_split)


def test_leaks_between_subsets_are_all_named(fake_split: Path) -> None:
    def leak(document: dict[str, object]) -> None:
        document["val"] = ["benign/benign (1)"]
        document["groups"] = {"benign/benign (2)": 7, "benign/benign (10)": 7}

    _edit(fake_split, leak)
    with pytest.raises(DataError) as caught:
        load_split(fake_split)
    assert "case 'benign/benign (1)' is in train and val" in str(caught.value)
    assert "group 7 is in train and test" in str(caught.value)


def test_a_malformed_split_file_raises_with_all_that_is_wrong(fake_split: Path) -> None:
    def spoil(document: dict[str, object]) -> None:
        del document["val"]
        document["test"] = "benign/benign (2)"
        document["groups"] = [1, 2]

    _edit(fake_split, spoil)
    with pytest.raises(DataError) as caught:
        load_split(fake_split)
    message = str(caught.value)
    assert "'val' must be a list of case keys, got nothing" in message
    assert "'test' must be a list of case keys, got 'benign/benign (2)'" in message
    assert "'groups' must map case keys to group numbers, got [1, 2]" in message


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_an_unreadable_split_file_raises_and_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"split\.json"):
        load_split(path)


def test_a_missing_split_file_raises_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split\.json"):
        load_split(tmp_path / "split.json")


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


@pytest.mark.slow
def test_every_file_of_the_real_dataset_is_sound(busi_root: Path) -> None:
    cases = list_cases(busi_root)
    assert len(cases) == 702
    check_cases(cases)
    normal = [case for case in cases if case.class_name == "normal"]
    assert len(normal) == 120
    assert not any(read_instances(case) for case in normal)


def _write_mask(path: Path, image_hw: tuple[int, int]) -> None:
    assert cv2.imwrite(str(path), np.full(image_hw, 255, dtype=np.uint8))


def _edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
