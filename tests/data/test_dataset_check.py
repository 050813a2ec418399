"""The check of a whole dataset: everything that is broken, in one report."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.data.case import read_instances
from samus_edge.data.dataset import list_cases
from samus_edge.data.dataset_check import ClassCount, check_cases, check_dataset
from samus_edge.errors import DataError


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


def test_a_sound_dataset_is_counted_by_subset_and_class(fake_busi: Path, fake_split: Path) -> None:
    seen: list[str] = []
    totals: list[int] = []
    report = check_dataset(
        fake_busi, fake_split, on_start=totals.append, on_case=lambda case: seen.append(case.key)
    )
    assert report.layout == "busi"
    assert report.problems == ()
    assert report.counts == (
        ClassCount("train", "benign", 2, 2),
        ClassCount("train", "normal", 1, 0),
        ClassCount("val", "malignant", 1, 1),
        ClassCount("test", "benign", 1, 2),
        ClassCount("test", "malignant", 1, 1),
    )
    assert totals == [6] and sorted(seen) == sorted(case.key for case in list_cases(fake_busi))


def test_without_subsets_everything_is_counted_once(fake_folders: Path) -> None:
    report = check_dataset(fake_folders)
    assert report.problems == ()
    assert report.counts == (
        ClassCount("all", "lesion", 3, 4),
        ClassCount("all", "cyst", 1, 1),
        ClassCount("all", "normal", 1, 0),
    )


def test_missing_and_broken_files_and_leaks_are_in_one_report(
    fake_busi: Path, fake_split: Path
) -> None:
    (fake_busi / "benign" / "benign (2)_mask_1.png").write_bytes(b"")
    (fake_busi / "malignant" / "malignant (2).png").unlink()
    text = fake_split.read_text(encoding="utf-8")
    fake_split.write_text(text.replace('"benign/benign (2)": 1', '"benign/benign (2)": 0'))
    problems = check_dataset(fake_busi, fake_split).problems
    assert len(problems) == 3
    assert "no image for 'malignant/malignant (2)'" in problems[0]
    assert problems[1] == "group 0 is in train and test"
    assert "benign (2)_mask_1.png is empty" in problems[2]


def test_us30k_is_checked_over_all_tasks(fake_us30k: Path) -> None:
    report = check_dataset(fake_us30k)
    assert report.problems == ()
    assert ClassCount("train", "Echo:2", 1, 1) in report.counts
    assert ClassCount("test-Breast", "Breast", 1, 1) in report.counts
    assert [
        count.subset
        for count in check_dataset(
            fake_us30k, fake_us30k / "MainPatient" / "train-Breast.txt"
        ).counts
    ] == ["train-Breast", "test-Breast"]


def test_a_class_that_a_label_map_lacks_and_a_repeated_line_are_named(fake_us30k: Path) -> None:
    with (fake_us30k / "MainPatient" / "train.txt").open("a", encoding="utf-8") as file:
        file.write("1/Breast/b1\n3/Echo/e1\n")
    problems = check_dataset(fake_us30k).problems
    assert problems[0] == "'Breast/b1' is listed 2 times in train"
    assert problems[1].endswith("e1.png has no pixel of class 3 ('Echo:3/e1')")
    assert len(problems) == 2


def test_near_duplicates_in_different_subsets_are_named_when_asked_for(
    fake_busi: Path, fake_split: Path
) -> None:
    image = cv2.imread(str(fake_busi / "benign" / "benign (1).png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    smooth = cv2.GaussianBlur(image, (0, 0), 6).astype(np.float64)
    for name, gain in (("benign (1)", 1.0), ("benign (2)", 0.9)):
        cv2.imwrite(str(fake_busi / "benign" / f"{name}.png"), (smooth * gain).astype(np.uint8))
    assert check_dataset(fake_busi, fake_split).problems == ()
    (problem,) = check_dataset(fake_busi, fake_split, near_duplicates=True).problems
    assert problem == (
        "'benign/benign (1)' in train and 'benign/benign (2)' in test are near-duplicates"
    )
