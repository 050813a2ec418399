"""Splitting a dataset so that near-duplicates stay together and every subset has every class.

Split files: which case belongs to which subset, and which images are near-duplicates.

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
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, list_problems, natural_order, read_image
from samus_edge.data.near_duplicates import (
    Similarity,
    connected_groups,
    find_near_duplicates,
    thumbnail,
)
from samus_edge.errors import BadArgumentError, DataError
from samus_edge.runtime.bundle.records import JsonValue, RecordError, from_json, parse_json

SUBSETS: Final = ("train", "val", "test")
"""Names of the subsets in a split file."""


def load_split(split_file: str | Path) -> dict[str, list[str]]:
    """Read the cases of each subset.

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
    """Read the groups of near-duplicate images from a split file (see `load_split`).

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
    try:
        content = Path(split_file).read_bytes()
    except OSError as err:
        raise DataError(f"Cannot read the split file {split_file}: {err}") from err
    try:
        split = from_json(_Split, parse_json(content))
    except RecordError as err:
        raise DataError(
            list_problems(f"The split file {split_file} is malformed", err.problems)
        ) from err
    except ValueError as err:
        raise DataError(f"Cannot read the split file {split_file}: {err}") from err
    return {subset: list(getattr(split, subset)) for subset in SUBSETS}, dict(split.groups)


@dataclass(frozen=True)
class _Split:
    """A split file; its other keys describe the origin of the split."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    groups: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


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
        about: origin of the split; put first.
    """
    document = {
        **about,
        **{subset: list(split[subset]) for subset in SUBSETS},
        "groups": dict(groups),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Fractions:
    """Shares of the subsets.

    Attributes:
        train: share of the cases to train on, in [0, 1].
        val: share of the cases to choose by, in [0, 1].
        test: share of the cases to report, in [0, 1].
    """

    train: float = 0.7
    val: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        """Check the shares.

        Raises:
            BadArgumentError: if one is not in [0, 1], or they do not add up to 1 (within 1e-6).
        """
        values = (self.train, self.val, self.test)
        if not (all(0 <= value <= 1 for value in values) and abs(sum(values) - 1) <= 1e-6):
            text = ",".join(f"{value:g}" for value in values)
            raise BadArgumentError(
                f"fractions must be three numbers in [0, 1] that add up to 1, got {text}."
            )


@dataclass(frozen=True)
class DuplicateGroups:
    """Cases that must stay together.

    Attributes:
        groups: group number by case key.
        pairs: near-duplicate images, as keys of a case of each; most similar first.
    """

    groups: dict[str, int]
    pairs: list[tuple[str, str]]


def group_cases(
    cases: Sequence[UltrasoundCase],
    similarity: Similarity | None = None,
    *,
    patient_pattern: str | None = None,
    on_case: Callable[[UltrasoundCase], object] = lambda case: None,
) -> DuplicateGroups:
    """Decode all images and group those that are near-duplicates, see `near_duplicates`.

    Args:
        cases: the cases; those of one image are always together.
        similarity: thresholds; None for the default ones.
        patient_pattern: regular expression; cases in whose key it finds the same text (that of its
            first group if it has one) are together, such as ``patient\\d+``.
        on_case: called with each case that has been read.

    Raises:
        DataError: if images cannot be read; all are named.
        BadArgumentError: if the pattern is no regular expression, or a key does not match it.
    """
    patients = _patients(cases, patient_pattern)
    images: dict[Path, npt.NDArray[np.float32]] = {}
    problems: list[str] = []
    for case in cases:
        if case.image_path not in images:
            try:
                images[case.image_path] = thumbnail(read_image(case))
            except DataError as err:
                problems.append(str(err))
        on_case(case)
    if problems:
        raise DataError(list_problems("The dataset has broken files", dict.fromkeys(problems)))
    numbers = {path: number for number, path in enumerate(images)}
    found = find_near_duplicates(list(images.values()), similarity)
    of_image: dict[int, str] = {}
    links = [(pair.first, pair.second) for pair in found]
    first_of_patient: dict[str, int] = {}
    for case in cases:
        number = numbers[case.image_path]
        of_image.setdefault(number, case.key)
        if patients:
            links.append((number, first_of_patient.setdefault(patients[case.key], number)))
    group_of_image = connected_groups(len(images), links)
    return DuplicateGroups(
        groups={case.key: group_of_image[numbers[case.image_path]] for case in cases},
        pairs=[
            (of_image[pair.first], of_image[pair.second])
            for pair in sorted(found, key=lambda pair: -pair.similarity)
        ],
    )


def assign_subsets(
    cases: Iterable[UltrasoundCase],
    groups: Mapping[str, int],
    fractions: Fractions = Fractions(),
    *,
    seed: int = 0,
    patterns: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Deal out whole groups so that each class is split by the fractions.

    Groups are dealt out from the largest to the smallest, in random order within a size, each to
    the subset that lacks most of its classes. The result depends on the arguments only.

    Args:
        cases: the cases.
        groups: group number of each case key.
        fractions: shares of the cases, for each class.
        seed: seed of the order.
        patterns: regular expression by subset; a group with a case whose key it matches belongs to
            that subset, the first of several, and is not dealt out. Empty ones match nothing.

    Returns:
        Case keys of each subset in ``SUBSETS``, sorted.

    Raises:
        BadArgumentError: if there are so few groups that a subset with a share would be empty, or
            if a pattern finds nothing or is no regular expression.
    """
    members: dict[int, list[UltrasoundCase]] = {}
    for case in sorted(cases, key=lambda case: natural_order(case.key)):
        members.setdefault(groups[case.key], []).append(case)
    split: dict[str, list[str]] = {subset: [] for subset in SUBSETS}
    for subset, pattern in (patterns or {}).items():
        matching = select_matching((c for group in members.values() for c in group), pattern)
        if pattern and not matching:
            raise BadArgumentError(
                f"the pattern {pattern!r} of {subset} finds nothing in any key, such as "
                f"{next(iter(groups), 'none')!r}. Make it find those of {subset}."
            )
        for number in sorted({groups[key] for key in matching}):
            split[subset] += [case.key for case in members.pop(number)]
    order = list(members.values())
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=len, reverse=True)
    sizes = Counter(case.class_name for group in order for case in group)
    shares = dict(zip(SUBSETS, (fractions.train, fractions.val, fractions.test), strict=True))
    lacking = {
        subset: {name: share * size for name, size in sizes.items()}
        for subset, share in shares.items()
    }
    for group in order:
        counts = Counter(case.class_name for case in group)
        subset = max(
            (subset for subset in SUBSETS if shares[subset] > 0),
            key=lambda subset: sum(lacking[subset][name] * count for name, count in counts.items()),
        )
        for name, count in counts.items():
            lacking[subset][name] -= count
        split[subset] += [case.key for case in group]
    empty = [subset for subset in SUBSETS if shares[subset] > 0 and not split[subset]]
    if empty:
        raise BadArgumentError(
            f"{len(groups)} cases in {len(set(groups.values()))} groups are too few to split: "
            f"{' and '.join(empty)} would be empty. Add cases, or give "
            f"{'it' if len(empty) == 1 else 'them'} a larger share, or none."
        )
    return {subset: sorted(keys, key=natural_order) for subset, keys in split.items()}


def select_matching(cases: Iterable[UltrasoundCase], pattern: str) -> set[str]:
    """Keys of the cases in which a regular expression finds something; an empty one finds nothing.

    Raises:
        BadArgumentError: if it is no regular expression.
    """
    compiled = _compiled(pattern)
    return {case.key for case in cases if pattern and compiled.search(case.key)}


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as err:
        raise BadArgumentError(f"the pattern {pattern!r} is no regular expression: {err}.") from err


def _patients(cases: Sequence[UltrasoundCase], pattern: str | None) -> dict[str, str]:
    """The text that the pattern finds in each key; empty without a pattern."""
    if pattern is None:
        return {}
    compiled = _compiled(pattern)
    matches = {case.key: compiled.search(case.key) for case in cases}
    unmatched = [key for key, match in matches.items() if match is None]
    if unmatched:
        raise BadArgumentError(
            f"the patient pattern {pattern!r} finds nothing in {len(unmatched)} of {len(matches)} "
            f"keys, such as {unmatched[0]!r}. Make it find the patient in every key."
        )
    return {key: match[1 if compiled.groups else 0] for key, match in matches.items() if match}
