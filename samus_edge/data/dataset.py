"""Datasets in any of the three layouts: their cases and their subsets.

| layout | folder |
| --- | --- |
| ``busi`` | BUSI as published: class folders with ``name.png`` and ``name_mask.png`` (`busi`) |
| ``us30k`` | US30K of SAMUS: ``MainPatient/`` and ``DATASET/img``, ``DATASET/label`` (`us30k`) |
| ``folders`` | ``images/`` and ``masks/`` with the same file names (`image_mask_folders`) |
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from samus_edge.data.busi import is_busi, scan_busi
from samus_edge.data.case import UltrasoundCase, list_problems
from samus_edge.data.image_mask_folders import (
    IMAGE_SUFFIXES,
    is_image_mask_folders,
    scan_image_mask_folders,
)
from samus_edge.data.listing import DatasetListing
from samus_edge.data.split_file import SUBSETS, find_leaks, load_groups, load_split
from samus_edge.data.us30k import is_us30k, scan_us30k, task_of_file
from samus_edge.errors import DataError

__all__ = ["LAYOUTS", "Subsets", "image_groups", "list_cases", "load_subsets", "scan_dataset"]


@dataclass(frozen=True)
class _Layout:
    fits: Callable[[Path], bool]
    scan: Callable[[Path], DatasetListing]
    text: str


LAYOUTS: Final[Mapping[str, _Layout]] = {  # in the order in which they are tried
    "us30k": _Layout(
        is_us30k,
        scan_us30k,
        "us30k: MainPatient/class.json, MainPatient/train.txt (val, test), DATASET/img/NAME.png and "
        "DATASET/label/NAME.png",
    ),
    "folders": _Layout(
        is_image_mask_folders,
        scan_image_mask_folders,
        f"folders: images/NAME and masks/NAME ({' '.join(IMAGE_SUFFIXES)})",
    ),
    "busi": _Layout(
        is_busi,
        scan_busi,
        "busi: CLASS/NAME.png and CLASS/NAME_mask.png, such as benign/, malignant/ and normal/",
    ),
}
"""The layouts by name."""


@dataclass(frozen=True)
class Subsets:
    """The cases of each subset; those that were not asked for are empty.

    Attributes:
        train: cases to train on.
        val: cases to choose by.
        test: cases to report.
        groups: group number by case key; near-duplicates share one. May lack keys.
    """

    train: list[UltrasoundCase] = field(default_factory=list)
    val: list[UltrasoundCase] = field(default_factory=list)
    test: list[UltrasoundCase] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)

    def get(self, name: str) -> list[UltrasoundCase]:
        """The cases of a subset by its name, one of ``SUBSETS``."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def scan_dataset(root: str | Path, layout: str = "auto") -> DatasetListing:
    """List what a dataset folder holds, without decoding it (see `dataset_check`).

    Args:
        root: the dataset folder.
        layout: one of `LAYOUTS`, or ``"auto"`` for the first that fits.

    Returns:
        The listing; broken cases are in it, they raise nothing yet.

    Raises:
        DataError: if the folder does not exist, no layout fits, or it holds no image.
        ValueError: if there is no such layout.
    """
    root = Path(root)
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"layout must be one of auto, {', '.join(LAYOUTS)}, got {layout!r}.")
    expected = (
        f"Pass a folder in one of the layouts: {'; '.join(x.text for x in LAYOUTS.values())}."
    )
    if not root.is_dir():
        raise DataError(f"The dataset folder {root} does not exist. {expected}")
    names = LAYOUTS if layout == "auto" else (layout,)
    name = next((name for name in names if LAYOUTS[name].fits(root)), None)
    if name is None:
        wanted = "any layout" if layout == "auto" else f"the layout '{layout}'"
        raise DataError(f"{root} does not fit {wanted} of a dataset. {expected}")
    listing = LAYOUTS[name].scan(root)
    if not listing.cases and not listing.broken:
        raise DataError(f"{root} is in the layout '{name}', but holds no image. {expected}")
    return listing


def list_cases(
    root: str | Path, keys: Iterable[str] | None = None, layout: str = "auto"
) -> list[UltrasoundCase]:
    """Find the files of the given cases, without decoding them (see `dataset_check`).

    Args:
        root: the dataset folder, in any layout.
        keys: case keys such as ``"benign/benign (104)"``; None for every case of the dataset.
        layout: one of `LAYOUTS`, or ``"auto"``.

    Returns:
        One case per key in the order given; for None sorted by key (numbers by value), or in the
        order of the subset files where the layout has them.

    Raises:
        DataError: if ``root`` is no such folder, or if files of a case are missing. All such cases
            are named in one error.
    """
    listing = scan_dataset(root, layout)
    return listing.select((*listing.cases, *listing.broken) if keys is None else keys)


def load_subsets(
    root: str | Path,
    split_file: str | Path | None = None,
    *,
    names: Sequence[str] = SUBSETS,
) -> Subsets:
    """List the subsets of a dataset: what training and evaluation start from.

    Args:
        root: the dataset folder, in any layout.
        split_file: a JSON split file (see `load_split`); for US30K also one of its own subset
            files, ``MainPatient/train-TASK.txt``, which stands for those of that task. None for
            the subsets that the layout has itself (US30K: ``train.txt``, ``val.txt``, ``test.txt``).
        names: the subsets that are needed; files of others may be missing.

    Returns:
        The subsets in file order, normal images included (see `select_lesions`).

    Raises:
        DataError: if a subset is not defined, a file of its cases is missing, or a case, an image
            or a group of near-duplicates is in several subsets.
        ValueError: if a name is not one of ``SUBSETS``.
    """
    unknown = [name for name in names if name not in SUBSETS]
    if unknown:
        raise ValueError(f"names must be of {', '.join(SUBSETS)}, got {', '.join(unknown)}.")
    listing = scan_dataset(root)
    task = "" if split_file is None else task_of_file(Path(split_file))
    if split_file is not None and task is None:
        split, groups = load_split(split_file), load_groups(split_file)
    else:
        split = _own_split(listing, task or "", names)
        groups = image_groups(listing.cases.values())
        leaks = find_leaks(split, groups)
        if leaks:
            raise DataError(
                list_problems(
                    f"The subsets of {root} leak (make a split with: samus-edge data split)", leaks
                )
            )
    cases = listing.select(key for name in names for key in split[name])
    by_key = {case.key: case for case in cases}
    return Subsets(**{name: [by_key[key] for key in split[name]] for name in names}, groups=groups)


def image_groups(cases: Iterable[UltrasoundCase]) -> dict[str, int]:
    """Number the images: the group of each case key. Cases of several classes share an image."""
    numbers: dict[Path, int] = {}
    return {case.key: numbers.setdefault(case.image_path, len(numbers)) for case in cases}


def _own_split(listing: DatasetListing, task: str, names: Sequence[str]) -> dict[str, list[str]]:
    """The subsets of a task that the layout names itself; all of ``names`` are there."""
    make_one = f"Make a split with: samus-edge data split --data {listing.root} --out split.json"
    if not listing.own_subsets:
        raise DataError(
            f"{listing.root} is in the layout '{listing.layout}', which names no train, val and "
            f"test subsets. {make_one}, and pass it with --split split.json."
        )
    own = listing.own_subsets.get(task, {})
    lacking = [name for name in names if name not in own]
    if lacking:
        files = ", ".join(f"{name}-{task}.txt" if task else f"{name}.txt" for name in lacking)
        tasks = ", ".join(sorted(task for task in listing.own_subsets if task)) or "none"
        raise DataError(
            f"{listing.root}/MainPatient lacks {files}. Other tasks there: {tasks}; pass one of "
            f"their files with --split, such as train-TASK.txt. Or: {make_one}."
        )
    return {name: own.get(name, []) for name in SUBSETS}
