"""A check of a whole dataset: every case is decoded once, everything broken is reported at once."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samus_edge.data.case import NORMAL_CLASS, UltrasoundCase, decode_case, list_problems
from samus_edge.data.dataset import DatasetListing, image_groups, scan_dataset, task_of_file
from samus_edge.data.splitting import find_leaks, group_cases, read_split
from samus_edge.errors import DataError

WHOLE = "all"
"""Name of the subset of all cases, where there are no subsets."""


@dataclass(frozen=True)
class ClassCount:
    """Number of cases and lesions of one class in one subset.

    Attributes:
        subset: name of the subset, or `WHOLE`.
        class_name: the class.
        cases: images; in a dataset of label maps, images with this class.
        lesions: masks with at least one pixel.
    """

    subset: str
    class_name: str
    cases: int
    lesions: int


@dataclass(frozen=True)
class DatasetReport:
    """Result of a check.

    Attributes:
        layout: name of the layout.
        counts: whole cases, by subset and class, in the order of the dataset.
        problems: all that is wrong, each with the file it is about.
    """

    layout: str
    counts: tuple[ClassCount, ...]
    problems: tuple[str, ...]


def check_dataset(
    root: str | Path,
    split_file: str | Path | None = None,
    *,
    near_duplicates: bool = False,
    on_start: Callable[[int], object] = lambda count: None,
    on_case: Callable[[UltrasoundCase], object] = lambda case: None,
) -> DatasetReport:
    """Decode all cases of a dataset.

    Args:
        root: the dataset folder, in any layout.
        split_file: a split file as `load_subsets` takes it; its cases alone are checked. None for
            the whole folder, with all subsets that the layout names itself.
        near_duplicates: whether to compare the images, too, and to report near-duplicates in
            different subsets.
        on_start: called with the number of cases.
        on_case: called with each case that has been read.

    Returns:
        The report. Problems are missing, undecodable, empty (but for normal images) and mismatched
        files, label maps in place of masks, broken lines, cases listed twice, and leaks.

    Raises:
        DataError: if the folder fits no layout or the split file cannot be read.
    """
    listing = scan_dataset(root)
    problems: list[str] = []
    subsets: dict[str, list[str]] = {}
    splits = _splits(listing, split_file)
    for split, groups in splits:
        problems += [*_repetitions(split), *find_leaks(split, groups)]
        subsets |= split
    subsets = subsets or {WHOLE: [*listing.cases, *listing.broken]}
    cases, missing = listing.find(dict.fromkeys(key for keys in subsets.values() for key in keys))
    on_start(len(cases))
    lesions, broken = find_broken(cases, on_case)
    if near_duplicates:
        pairs = group_cases([case for case in cases if case.key in lesions]).pairs
        for split, _ in splits:
            problems += _near_duplicate_leaks(split, pairs)
    return DatasetReport(
        layout=listing.layout,
        counts=tuple(_count(subsets, lesions, {case.key: case.class_name for case in cases})),
        problems=(*missing, *problems, *broken),
    )


def _splits(
    listing: DatasetListing, split_file: str | Path | None
) -> list[tuple[dict[str, list[str]], dict[str, int]]]:
    """Key lists by subset with the groups that must not leak: those of the file, or of every
    task."""
    task = None if split_file is None else task_of_file(Path(split_file))
    if split_file is not None and task is None:
        return [read_split(split_file)]
    groups = image_groups(listing.cases.values())
    return [
        ({f"{name}-{own}" if own else name: keys for name, keys in split.items()}, groups)
        for own, split in listing.own_subsets.items()
        if task is None or own == task
    ]


def find_broken(
    cases: Iterable[UltrasoundCase],
    on_case: Callable[[UltrasoundCase], object] = lambda case: None,
) -> tuple[dict[str, int], list[str]]:
    """Decode all cases.

    Args:
        cases: the cases.
        on_case: called with each case that has been read.

    Returns:
        Number of lesions of each whole case by key, and the problems of the others.
    """
    lesions: dict[str, int] = {}
    problems: list[str] = []
    for case in cases:
        count = len(problems)
        _, instances = decode_case(case, problems)
        if len(problems) == count:
            if instances or case.class_name == NORMAL_CLASS:
                lesions[case.key] = len(instances)
            else:
                problems.append(_empty(case))
        on_case(case)
    return lesions, list(dict.fromkeys(problems))  # cases of several classes share files


def check_cases(cases: Sequence[UltrasoundCase]) -> None:
    """Decode every file of the cases once, to find all broken ones before a long run.

    Raises:
        DataError: If a file is missing or cannot be decoded, if a mask's size differs from its
            image's, or if a case that should show a lesion has only empty masks. All are named.
    """
    _, problems = find_broken(cases)
    if problems:
        raise DataError(list_problems("The dataset has broken files", problems))


def _empty(case: UltrasoundCase) -> str:
    if case.label_value is not None:
        return f"{case.mask_paths[0]} has no pixel of class {case.label_value} ('{case.key}')"
    return f"every mask of '{case.key}' is empty ({case.mask_paths[0]})"


def _repetitions(split: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"'{key}' is listed {count} times in {name}"
        for name, keys in split.items()
        for key, count in Counter(keys).items()
        if count > 1
    ]


def _near_duplicate_leaks(
    split: Mapping[str, Sequence[str]], pairs: Iterable[tuple[str, str]]
) -> list[str]:
    subset_of = {key: name for name, keys in split.items() for key in keys}
    return [
        f"'{first}' in {subset_of[first]} and '{second}' in {subset_of[second]} are near-duplicates"
        for first, second in pairs
        if first in subset_of and second in subset_of and subset_of[first] != subset_of[second]
    ]


def _count(
    subsets: Mapping[str, Sequence[str]], lesions: Mapping[str, int], classes: Mapping[str, str]
) -> Iterable[ClassCount]:
    for subset, keys in subsets.items():
        whole = [key for key in dict.fromkeys(keys) if key in lesions]
        for class_name in dict.fromkeys(classes[key] for key in whole):
            of_class = [lesions[key] for key in whole if classes[key] == class_name]
            yield ClassCount(subset, class_name, len(of_class), sum(of_class))
