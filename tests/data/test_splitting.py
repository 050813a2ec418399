"""Splitting: groups stay whole, classes keep their shares, the same seed gives the same split."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.dataset import list_cases
from samus_edge.data.split_file import find_leaks
from samus_edge.data.splitting import Fractions, assign_subsets, group_cases
from samus_edge.errors import DataError


def cases_of(sizes: dict[str, int]) -> list[UltrasoundCase]:
    return [
        UltrasoundCase(f"{name}/{number}", Path(f"{name}_{number}.png"), ())
        for name, size in sizes.items()
        for number in range(size)
    ]


def test_each_class_has_its_shares() -> None:
    cases = cases_of({"benign": 100, "malignant": 50, "normal": 10})
    split = assign_subsets(cases, {case.key: n for n, case in enumerate(cases)})
    counts = {subset: Counter(key.split("/")[0] for key in keys) for subset, keys in split.items()}
    assert counts == {
        "train": {"benign": 70, "malignant": 35, "normal": 7},
        "val": {"benign": 10, "malignant": 5, "normal": 1},
        "test": {"benign": 20, "malignant": 10, "normal": 2},
    }


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=60),
    st.sampled_from([(0.7, 0.1, 0.2), (0.5, 0.5, 0.0), (0.0, 0.0, 1.0)]),
    st.integers(0, 2**32),
)
def test_every_case_is_in_one_subset_and_no_group_is_torn(
    numbers: list[int], shares: tuple[float, float, float], seed: int
) -> None:
    cases = cases_of({"a": (len(numbers) + 1) // 2, "b": len(numbers) // 2})
    groups = {case.key: number for case, number in zip(cases, numbers, strict=True)}
    split = assign_subsets(cases, groups, Fractions(*shares), seed=seed)
    keys = [key for subset in split.values() for key in subset]
    assert sorted(keys) == sorted(groups)
    assert find_leaks(split, groups) == []
    assert all(share > 0 or not split[name] for name, share in zip(split, shares, strict=True))


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    cases = cases_of({"benign": 40, "malignant": 20})
    groups = {case.key: n // 2 for n, case in enumerate(cases)}
    split = assign_subsets(cases, groups, seed=1)
    assert assign_subsets(cases[::-1], groups, seed=1) == split
    assert assign_subsets(cases, groups, seed=2) != split


@pytest.mark.parametrize("values", [(0.7, 0.1, 0.1), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_shares_that_are_none_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=rf"add up to 1, got {values[0]:g},{values[1]:g}"):
        Fractions(*values)


def test_near_duplicates_and_classes_of_one_image_share_a_group(
    fake_busi: Path, fake_us30k: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
    image = np.asarray(cv2.equalizeHist(cv2.GaussianBlur(noise, (0, 0), 8)))
    cv2.imwrite(str(fake_busi / "benign" / "benign (1).png"), image)
    cv2.imwrite(str(fake_busi / "malignant" / "malignant (1).png"), image[:, :78])
    found = group_cases(list_cases(fake_busi))
    assert found.pairs == [("benign/benign (1)", "malignant/malignant (1)")]
    assert found.groups["benign/benign (1)"] == found.groups["malignant/malignant (1)"]
    assert len(set(found.groups.values())) == 5
    groups = group_cases(list_cases(fake_us30k)).groups
    assert groups["Echo:1/e1"] == groups["Echo:2/e1"]
    assert len(set(groups.values())) == 6


def test_a_pattern_keeps_patients_together(fake_us30k: Path) -> None:
    cases = list_cases(fake_us30k)
    groups = group_cases(cases, patient_pattern=r"/(\w)\d").groups
    assert len({groups[case.key] for case in cases if case.key.startswith("Breast")}) == 1
    assert len(set(groups.values())) == 2
    with pytest.raises(ValueError, match=r"'Echo' finds nothing in 3 of 7 keys.*'Breast/b1'"):
        group_cases(cases, patient_pattern="Echo")
    with pytest.raises(ValueError, match=r"'\[' is no regular expression"):
        group_cases(cases, patient_pattern="[")


def test_images_that_cannot_be_read_are_all_named(fake_busi: Path) -> None:
    for name in ("benign (1)", "benign (10)"):
        (fake_busi / "benign" / f"{name}.png").write_bytes(np.arange(9, dtype=np.uint8).tobytes())
    with pytest.raises(DataError, match=r"benign \(1\)\.png.*benign \(10\)\.png"):
        group_cases(list_cases(fake_busi))
