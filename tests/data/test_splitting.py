"""Splitting: groups stay whole, classes keep their shares, the same seed gives the same split."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.dataset import list_cases
from samus_edge.data.splitting import (
    Fractions,
    assign_subsets,
    find_leaks,
    group_cases,
    load_groups,
    load_split,
    split_file_text,
)
from samus_edge.errors import BadArgumentError, DataError


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
    assert "val is missing" in message
    assert "test must be a list, got 'benign/benign (2)'" in message
    assert "groups must be a mapping, got [1, 2]" in message


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_an_unreadable_split_file_raises_and_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"split\.json"):
        load_split(path)


def test_a_missing_split_file_raises_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split\.json"):
        load_split(tmp_path / "split.json")


def _edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    split = {"train": ["a/ü"], "val": [], "test": ["a/2", "b/3"]}
    groups = {"a/ü": 0, "a/2": 1, "b/3": 1}
    path = tmp_path / "split.json"
    path.write_text(split_file_text(split, groups, {"seed": 3}), encoding="utf-8")
    assert load_split(path) == split
    assert load_groups(path) == groups
    assert json.loads(path.read_text(encoding="utf-8"))["seed"] == 3


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
    try:
        split = assign_subsets(cases, groups, Fractions(*shares), seed=seed)
    except BadArgumentError:
        assume(False)
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


@pytest.mark.parametrize(
    ("count", "empty"), [(0, "train and val and test"), (1, "val and test"), (3, "val")]
)
def test_too_few_cases_are_refused_with_what_would_be_empty(count: int, empty: str) -> None:
    cases = cases_of({"benign": count})
    groups = {case.key: number for number, case in enumerate(cases)}
    with pytest.raises(BadArgumentError, match=rf"{count} cases in {count} groups .*{empty}"):
        assign_subsets(cases, groups)


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
