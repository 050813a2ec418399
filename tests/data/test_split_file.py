"""Split files: their content, leaks, and what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from samus_edge.data.split_file import load_groups, load_split, split_file_text
from samus_edge.errors import DataError


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
