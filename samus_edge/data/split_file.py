"""Split files: which case belongs to which subset, and which images are near-duplicates.

```json
{
  "train": ["benign/benign (1)", "normal/normal (3)"],
  "val": ["malignant/malignant (2)"],
  "test": ["benign/benign (7)"],
  "groups": {"benign/benign (1)": 0, "normal/normal (3)": 1, ...}
}
```
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from samus_edge.data.case import list_problems
from samus_edge.errors import DataError

__all__ = ["SUBSETS", "find_leaks", "load_groups", "load_split", "read_split", "split_file_text"]

SUBSETS: Final = ("train", "val", "test")
"""Names of the subsets in a split file."""


def load_split(split_file: str | Path) -> dict[str, list[str]]:
    """Read which cases belong to which subset.

    A split file is a JSON object with the lists ``train``, ``val`` and ``test`` of case keys and,
    optionally, ``groups``: a group number for each key. Near-duplicate images share a group.
    The lists name normal images as well, use `select_lesions` on the listed cases.

    Args:
        split_file: The JSON file.

    Returns:
        Case keys of each subset in ``SUBSETS``, in file order.

    Raises:
        DataError: If the file cannot be read, a list is missing or malformed, or a case or a group
            of near-duplicates appears in more than one subset (a leak). All leaks are named.
    """
    split, groups = read_split(split_file)
    leaks = find_leaks(split, groups)
    if leaks:
        raise DataError(
            list_problems(f"The split file {split_file} leaks between its subsets", leaks)
        )
    return split


def load_groups(split_file: str | Path) -> dict[str, int]:
    """Read which images are near-duplicates of each other, from a split file (see `load_split`).

    Returns:
        Group number of each case key; empty if the file names no groups.

    Raises:
        DataError: If the file cannot be read or is malformed.
    """
    return read_split(split_file)[1]


def read_split(split_file: str | Path) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Read a split file that may leak.

    Returns:
        Case keys of each subset in ``SUBSETS``, and group number of each case key.

    Raises:
        DataError: If the file cannot be read or is malformed.
    """
    document = _read_document(split_file)
    return {subset: document[subset] for subset in SUBSETS}, document["groups"]


def find_leaks(split: Mapping[str, Sequence[str]], groups: Mapping[str, object]) -> list[str]:
    """Name every case and every group of near-duplicates found in more than one subset.

    Args:
        split: case keys of each subset.
        groups: group of each key; keys without one are only compared with themselves.
    """
    owners: dict[tuple[str, object], list[str]] = {}
    for subset, keys in split.items():
        for key in dict.fromkeys(keys):
            members: list[tuple[str, object]] = [("case", key)]
            if key in groups:
                members.append(("group", groups[key]))
            for member in members:
                subsets = owners.setdefault(member, [])
                if subset not in subsets:
                    subsets.append(subset)
    return [
        f"{kind} {name!r} is in {' and '.join(subsets)}"
        for (kind, name), subsets in owners.items()
        if len(subsets) > 1
    ]


def split_file_text(
    split: Mapping[str, Sequence[str]], groups: Mapping[str, int], about: Mapping[str, object]
) -> str:
    """The content of a split file that `load_split` reads.

    Args:
        split: case keys of each subset in ``SUBSETS``.
        groups: group number of each key.
        about: where the split comes from; put first.
    """
    document = {
        **about,
        **{subset: list(split[subset]) for subset in SUBSETS},
        "groups": dict(groups),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _read_document(split_file: str | Path) -> dict[str, Any]:
    """Read a split file; its lists are lists of text and its ``groups`` map text to int."""
    try:
        document: object = json.loads(Path(split_file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(f"Cannot read the split file {split_file}: {err}") from err
    if not isinstance(document, dict):
        raise DataError(
            f"The split file {split_file} must hold a JSON object, got {_name(document)}."
        )
    document.setdefault("groups", {})
    problems = [
        f"'{subset}' must be a list of case keys, got {_name(document.get(subset))}"
        for subset in SUBSETS
        if not _is_list_of_str(document.get(subset))
    ]
    groups = document["groups"]
    if not isinstance(groups, dict) or not all(isinstance(g, int) for g in groups.values()):
        problems.append(f"'groups' must map case keys to group numbers, got {_name(groups)}")
    if problems:
        raise DataError(list_problems(f"The split file {split_file} is malformed", problems))
    return document


def _is_list_of_str(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _name(value: object) -> str:
    """Say what a JSON value is, short enough for a message."""
    return "nothing" if value is None else f"{value!r:.60}"
