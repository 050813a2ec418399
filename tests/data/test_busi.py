"""BUSI's layout: a small fake folder with its oddities, and the real one where it is at hand."""

from pathlib import Path

import pytest

from samus_edge.data.case import select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.data.split_file import load_groups, load_split
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
