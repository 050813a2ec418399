"""BUSI, the breast ultrasound dataset, in its original folder layout.

```
Dataset_BUSI_with_GT/
    benign/benign (1).png            the image
    benign/benign (1)_mask.png       the first lesion
    benign/benign (1)_mask_1.png     further lesions, if any
    malignant/...
    normal/...                       images without a lesion, with empty masks
```

Facts the reader handles: a few images are stored in colour because of coloured callipers, two masks
are RGBA with an opaque alpha channel, the masks of normal images are black RGB images.

Source:
    W. Al-Dhabyani, M. Gomaa, H. Khaled, A. Fahmy, "Dataset of breast ultrasound images",
    Data in Brief 28 (2020) 104863.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from samus_edge.errors import DataError, ImageFileError
from samus_edge.runtime import image_io

__all__ = [
    "NORMAL_CLASS",
    "SUBSETS",
    "UltrasoundCase",
    "check_cases",
    "list_cases",
    "load_groups",
    "load_split",
    "read_image",
    "read_instances",
    "select_lesions",
]

SUBSETS: Final = ("train", "val", "test")
"""Names of the subsets in a split file."""

NORMAL_CLASS: Final = "normal"
"""Class (folder) of the images without a lesion."""

_MASK_NAME: Final = re.compile(r"(?P<stem>.+)_mask(?:_(?P<index>\d+))?")


@dataclass(frozen=True)
class UltrasoundCase:
    """One image of the dataset with the files of its lesions; nothing is read from disk yet."""

    key: str
    """Class and file stem, such as ``"benign/benign (104)"``; unique in the dataset."""
    image_path: Path
    """The image file."""
    mask_paths: tuple[Path, ...]
    """One file per lesion, in the order ``_mask``, ``_mask_1``, ``_mask_2``."""

    @property
    def class_name(self) -> str:
        """Class of the image: ``"benign"``, ``"malignant"`` or ``"normal"``."""
        return self.key.split("/")[0]


def load_split(split_file: str | Path) -> dict[str, list[str]]:
    """Read which cases belong to which subset.

    A split file is a JSON object with the lists ``train``, ``val`` and ``test`` of case keys and,
    optionally, ``groups``: a group number for each key. Near-duplicate images share a group.
    The lists of BUSI's split name normal images as well, use `select_lesions` on the listed cases:
    388 of 468 (train), 65 of 78 (val) and 129 of 156 (test) show a lesion.

    Args:
        split_file: The JSON file.

    Returns:
        Case keys of each subset in ``SUBSETS``, in file order.

    Raises:
        DataError: If the file cannot be read, a list is missing or malformed, or a case or a group
            of near-duplicates appears in more than one subset (a leak). All leaks are named.
    """
    document = _read_split_file(split_file)
    split: dict[str, list[str]] = {subset: list(document[subset]) for subset in SUBSETS}
    leaks = _leaks(split, document["groups"])
    if leaks:
        raise DataError(
            f"The split file {split_file} leaks between its subsets: " + "; ".join(leaks) + "."
        )
    return split


def load_groups(split_file: str | Path) -> dict[str, int]:
    """Read which images are near-duplicates of each other, from a split file (see `load_split`).

    Returns:
        Group number of each case key; empty if the file names no groups.

    Raises:
        DataError: If the file cannot be read or is malformed.
    """
    return dict(_read_split_file(split_file)["groups"])


def list_cases(root: str | Path, keys: Iterable[str] | None = None) -> list[UltrasoundCase]:
    """Find the files of the given cases, without decoding them (see `check_cases`).

    Args:
        root: The dataset folder, the one that contains ``benign``, ``malignant`` and ``normal``.
        keys: Case keys such as ``"benign/benign (104)"``; None for every image under ``root``.

    Returns:
        One case per key in the order given, or sorted by key (numbers by value) if None.

    Raises:
        DataError: If ``root`` is not such a folder, or if the image or every mask file of a key is
            missing. All such cases are named in one error.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"The dataset folder {root} does not exist. Pass the folder that contains "
            "'benign', 'malignant' and 'normal'."
        )
    images, masks = _scan(root)
    if not images:
        raise DataError(
            f"No PNG image found in the subfolders of {root}. Pass the folder that contains "
            "'benign', 'malignant' and 'normal'."
        )
    wanted = sorted(images, key=_natural_order) if keys is None else list(keys)
    problems: list[str] = []
    cases: list[UltrasoundCase] = []
    for key in wanted:
        if key not in images:
            problems.append(f"no image for '{key}' (expected {root / key}.png)")
        elif key not in masks:
            problems.append(f"no mask for '{key}' (expected {root / key}_mask.png)")
        else:
            cases.append(UltrasoundCase(key, images[key], masks[key]))
    if problems:
        raise DataError(_list_problems(f"{len(problems)} case(s) of {root} lack files", problems))
    return cases


def select_lesions(cases: Iterable[UltrasoundCase]) -> list[UltrasoundCase]:
    """Keep the cases that show a lesion: every class but ``"normal"``, in the order given."""
    return [case for case in cases if case.class_name != NORMAL_CLASS]


def read_image(case: UltrasoundCase) -> npt.NDArray[np.uint8]:
    """Decode the image of a case.

    The runtime's reader decodes it, so training and evaluation see what `samus-edge infer` sees:
    colour (coloured callipers on a grey image) becomes grey with OpenCV's weights
    (0.299 R + 0.587 G + 0.114 B), transparent pixels are laid over black.

    Returns:
        (H, W) grey image at its own size, 0..255.

    Raises:
        DataError: If the file is missing or cannot be decoded.
    """
    return _read_grey(case.image_path)


def read_instances(case: UltrasoundCase) -> list[npt.NDArray[np.bool_]]:
    """Decode the lesions of a case: one mask per mask file, also where it has several parts.

    A pixel belongs to the lesion if it is neither black nor fully transparent. Empty mask files,
    such as those of normal images, contribute nothing.

    Returns:
        (H, W) masks at the size of the image, in the order of ``case.mask_paths``.

    Raises:
        DataError: If the image or a mask is missing or cannot be decoded, or if a mask's size
            differs from the image's. All such files are named in one error.
    """
    problems: list[str] = []
    instances = _read_instances(case, problems)
    if problems:
        raise DataError(_list_problems(f"Case '{case.key}' is broken", problems))
    return instances


def check_cases(cases: Sequence[UltrasoundCase]) -> None:
    """Decode every file of the cases once, to find all broken ones before a long run.

    Raises:
        DataError: If a file is missing or cannot be decoded, if a mask's size differs from its
            image's, or if a case that should show a lesion has only empty masks. All are named.
    """
    problems: list[str] = []
    for case in cases:
        count = len(problems)
        instances = _read_instances(case, problems)
        if len(problems) == count and not instances and case.class_name != NORMAL_CLASS:
            problems.append(f"every mask of '{case.key}' is empty ({case.mask_paths[0]})")
    if problems:
        raise DataError(_list_problems("The dataset has broken files", problems))


def _read_split_file(split_file: str | Path) -> dict[str, Any]:
    """Read a split file; its lists are lists of text and its ``groups`` map text to int."""
    try:
        document: object = json.loads(Path(split_file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
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
        raise DataError(f"The split file {split_file} is malformed: " + "; ".join(problems) + ".")
    return document


def _read_instances(case: UltrasoundCase, problems: list[str]) -> list[npt.NDArray[np.bool_]]:
    image_hw: tuple[int, ...] | None = None
    try:
        image_hw = read_image(case).shape
    except DataError as err:
        problems.append(str(err))
    instances: list[npt.NDArray[np.bool_]] = []
    for path in case.mask_paths:
        try:
            mask = _read_grey(path) > 0
        except DataError as err:
            problems.append(str(err))
            continue
        if image_hw is not None and mask.shape != image_hw:
            problems.append(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels, but its image "
                f"{case.image_path} is {image_hw[1]}x{image_hw[0]}"
            )
        elif mask.any():
            instances.append(mask)
    return instances


def _read_grey(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a file to grey (H, W) as the runtime does."""
    try:
        return image_io.read_image(path)
    except ImageFileError as err:
        raise DataError(str(err)) from err


def _scan(root: Path) -> tuple[dict[str, Path], dict[str, tuple[Path, ...]]]:
    """Map the key of every image under ``root`` to its file, and to its mask files in order."""
    images: dict[str, Path] = {}
    masks: dict[str, list[tuple[int, Path]]] = {}
    for path in root.glob("*/*.png"):
        match = _MASK_NAME.fullmatch(path.stem)
        if match is None:
            images[f"{path.parent.name}/{path.stem}"] = path
        else:
            index = int(match["index"] or 0)
            masks.setdefault(f"{path.parent.name}/{match['stem']}", []).append((index, path))
    ordered = {key: tuple(path for _, path in sorted(found)) for key, found in masks.items()}
    return images, ordered


def _leaks(split: Mapping[str, Sequence[str]], groups: Mapping[str, object]) -> list[str]:
    """Name every case and every group of near-duplicates found in more than one subset."""
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


def _natural_order(key: str) -> list[tuple[int, str]]:
    """Sort key that puts ``benign (9)`` before ``benign (10)``."""
    return [(int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", key)]


def _list_problems(summary: str, problems: Sequence[str]) -> str:
    return f"{summary}: " + "; ".join(problem.rstrip(".") for problem in problems) + "."


def _is_list_of_str(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _name(value: object) -> str:
    """Say what a JSON value is, short enough for a message."""
    return "nothing" if value is None else f"{value!r:.60}"
