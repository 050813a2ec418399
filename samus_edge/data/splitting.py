"""Splitting a dataset so that near-duplicates stay together and every subset has every class."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, list_problems, natural_order, read_image
from samus_edge.data.near_duplicates import (
    NearDuplicate,
    Similarity,
    connected_groups,
    find_near_duplicates,
    thumbnail,
)
from samus_edge.data.split_file import SUBSETS
from samus_edge.errors import DataError

__all__ = ["DuplicateGroups", "Fractions", "assign_subsets", "group_cases"]


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
            ValueError: if one is not in [0, 1], or they do not add up to 1 (within 1e-6).
        """
        values = (self.train, self.val, self.test)
        if not (all(0 <= value <= 1 for value in values) and abs(sum(values) - 1) <= 1e-6):
            text = ",".join(f"{value:g}" for value in values)
            raise ValueError(
                f"fractions must be three numbers in [0, 1] that add up to 1, got {text}."
            )


@dataclass(frozen=True)
class DuplicateGroups:
    """Which cases must stay together.

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
        on_case: told each case when it has been read.

    Raises:
        DataError: if images cannot be read; all are named.
        ValueError: if the pattern is no regular expression, or a key does not match it.
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
        pairs=[(of_image[pair.first], of_image[pair.second]) for pair in _sorted(found)],
    )


def assign_subsets(
    cases: Iterable[UltrasoundCase],
    groups: Mapping[str, int],
    fractions: Fractions = Fractions(),
    *,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Deal out whole groups so that each class is split by the fractions.

    Groups are dealt out from the largest to the smallest, in random order within a size, each to the
    subset that lacks most of its classes. The result depends on the arguments only.

    Args:
        cases: the cases.
        groups: group number of each case key.
        fractions: shares of the cases, for each class.
        seed: seed of the order.

    Returns:
        Case keys of each subset in ``SUBSETS``, sorted.
    """
    members: dict[int, list[UltrasoundCase]] = {}
    for case in sorted(cases, key=lambda case: natural_order(case.key)):
        members.setdefault(groups[case.key], []).append(case)
    order = list(members.values())
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=len, reverse=True)
    sizes = Counter(case.class_name for group in order for case in group)
    shares = dict(zip(SUBSETS, (fractions.train, fractions.val, fractions.test), strict=True))
    lacking = {
        subset: {name: share * size for name, size in sizes.items()}
        for subset, share in shares.items()
    }
    split: dict[str, list[str]] = {subset: [] for subset in SUBSETS}
    for group in order:
        counts = Counter(case.class_name for case in group)
        subset = max(
            (subset for subset in SUBSETS if shares[subset] > 0),
            key=lambda subset: sum(lacking[subset][name] * count for name, count in counts.items()),
        )
        for name, count in counts.items():
            lacking[subset][name] -= count
        split[subset] += [case.key for case in group]
    return {subset: sorted(keys, key=natural_order) for subset, keys in split.items()}


def _patients(cases: Sequence[UltrasoundCase], pattern: str | None) -> dict[str, str]:
    """What the pattern finds in each key; empty without a pattern."""
    if pattern is None:
        return {}
    try:
        compiled = re.compile(pattern)
    except re.error as err:
        raise ValueError(
            f"the patient pattern {pattern!r} is no regular expression: {err}."
        ) from err
    matches = {case.key: compiled.search(case.key) for case in cases}
    unmatched = [key for key, match in matches.items() if match is None]
    if unmatched:
        raise ValueError(
            f"the patient pattern {pattern!r} finds nothing in {len(unmatched)} of {len(matches)} "
            f"keys, such as {unmatched[0]!r}. Make it find the patient in every key."
        )
    return {key: match[1 if compiled.groups else 0] for key, match in matches.items() if match}


def _sorted(pairs: Iterable[NearDuplicate]) -> list[NearDuplicate]:
    return sorted(pairs, key=lambda pair: -pair.similarity)
