"""Datasets in any of three layouts: their cases and their subsets.

**folders**: a folder of images and a folder of masks with the same names.

```
images/case_7.png                the image: PNG, JPEG, BMP or TIFF
masks/case_7.png                 the first lesion, in any of these formats
masks/case_7_1.png               further lesions, if any
```

Images may lie in one level of class folders, ``images/benign/...`` with ``masks/benign/...``. The
images of a class folder called ``normal`` show no lesion and need no mask. A mask belongs to the
image of its own name; only without one, its ending ``_1``, ``_2`` ... is the number of a lesion.

**us30k**: US30K, the collection that SAMUS was trained on, as SAMUS's code reads it.

```
MainPatient/class.json           {"Breast-BUSI": 2, ...}: classes with the background, by dataset
MainPatient/train.txt, val.txt   lines "class/dataset/file"
MainPatient/test.txt             lines "dataset/file" for class 1, or "class/dataset/file"
MainPatient/train-TASK.txt ...   the same for a part of the collection, also val- and test-
Breast-BUSI/img/benign0046.png   the image; the file in a line has no ending
Breast-BUSI/label/benign0046.png its label map, whose pixels hold class numbers
```

A case is an image with one class, and its mask the pixels with that number. In a dataset of two
classes any value but 0 is class 1, because some of its label maps hold 255. Each dataset is a class
here; in those of more than two the number is part of the name: ``"Echocardiography-CAMUS:2"``.
Source: `ImageToImage2D` in utils/data_us.py and example_of_required_dataset_format of
https://github.com/xianlin7/SAMUS (commit 030ed07). We differ: broken lines are errors, empty lines
are not.

**busi**: BUSI, the breast ultrasound dataset, as published.

```
benign/benign (1).png            the image
benign/benign (1)_mask.png       the first lesion
benign/benign (1)_mask_1.png     further lesions, if any
malignant/...
normal/...                       images without a lesion, with empty masks
```

A few images are stored in colour because of coloured callipers, two masks are RGBA with an opaque
alpha channel, and the masks of normal images are black RGB images. Source: W. Al-Dhabyani,
M. Gomaa, H. Khaled, A. Fahmy, "Dataset of breast ultrasound images", Data in Brief 28 (2020)
104863.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from samus_edge.data.case import NORMAL_CLASS, UltrasoundCase, list_problems, natural_order
from samus_edge.data.splitting import SUBSETS, find_leaks, load_groups, load_split
from samus_edge.errors import BadArgumentError, DataError
from samus_edge.runtime.bundle.records import Bound, from_json, parse_json


@dataclass(frozen=True)
class DatasetListing:
    """The cases of a folder in one of the layouts, and all that is wrong with its files.

    Attributes:
        root: the folder.
        layout: name of the layout.
        cases: whole cases by key, in order.
        broken: problems by the case's key, or by file and line where a line names no case.
        own_subsets: keys (also those of ``broken``) of ``train``, ``val`` and ``test`` where the
            layout names them itself, by task; the task of the whole dataset is ``""``.
        missing_text: message for a key that is in none of these, with ``{key}`` and ``{root}``.
    """

    root: Path
    layout: str
    cases: Mapping[str, UltrasoundCase]
    broken: Mapping[str, str] = field(default_factory=dict)
    own_subsets: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)
    missing_text: str = "no image for '{key}' (expected {root}/{key}.png)"

    def select(self, keys: Iterable[str]) -> list[UltrasoundCase]:
        """The cases of the given keys, in the order given.

        Raises:
            DataError: if a case is missing or lacks files; all such cases are named.
        """
        found, problems = self.find(keys)
        if problems:
            raise DataError(
                list_problems(f"{len(problems)} case(s) of {self.root} lack files", problems)
            )
        return found

    def find(self, keys: Iterable[str]) -> tuple[list[UltrasoundCase], list[str]]:
        """The whole cases of the given keys, and the problems of the others."""
        keys = list(keys)
        return [self.cases[key] for key in keys if key in self.cases], [
            self.broken.get(key) or self.missing_text.format(key=key, root=self.root)
            for key in keys
            if key not in self.cases
        ]


IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings, in lower case, of the files that are looked at."""

_IMAGES, _MASKS = "images", "masks"
_FURTHER: Final = re.compile(r"(?P<stem>.+)_(?P<index>\d+)")


def is_image_mask_folders(root: Path) -> bool:
    """Whether a folder has the subfolders ``images`` and ``masks``."""
    return (root / _IMAGES).is_dir() and (root / _MASKS).is_dir()


def scan_image_mask_folders(root: Path) -> DatasetListing:
    """List the cases of a folder, keys such as ``"case_7"`` or ``"benign/case_7"``.

    Broken are images without a mask, masks without an image, and names that several files share
    because they differ in their format alone.
    """
    images, masks = _files(root / _IMAGES), _files(root / _MASKS)
    broken: dict[str, str] = {}
    lesions: dict[str, list[tuple[int, Path]]] = {}
    for name, paths in masks.items():
        key, index = _owner(name, images)
        if key not in images:
            broken[name] = f"no image for the mask {paths[0]} (expected {root / _IMAGES / key}.png)"
        elif len(paths) > 1:
            broken[key] = _several("masks", paths)
        else:
            lesions.setdefault(key, []).append((index, paths[0]))
    cases: dict[str, UltrasoundCase] = {}
    for key in sorted(images, key=natural_order):
        paths = images[key]
        is_normal = key.rpartition("/")[0] == NORMAL_CLASS
        if len(paths) > 1:
            broken[key] = _several("images", paths)
        elif key not in lesions and key not in broken and not is_normal:
            broken[key] = f"no mask for '{key}' (expected {root / _MASKS / key}.png)"
        if key not in broken:
            found = tuple(path for _, path in sorted(lesions.get(key, [])))
            cases[key] = UltrasoundCase(key, paths[0], found)
    missing_text = f"no image for '{{key}}' (expected {{root}}/{_IMAGES}/{{key}}.png)"
    return DatasetListing(root, "folders", cases, broken, missing_text=missing_text)


def _owner(name: str, images: dict[str, list[Path]]) -> tuple[str, int]:
    """Key of the image that a mask belongs to, and the number of the lesion."""
    match = _FURTHER.fullmatch(name)
    if name in images or match is None or match["stem"] not in images:
        return name, 0
    return match["stem"], int(match["index"])


def _files(folder: Path) -> dict[str, list[Path]]:
    """Image files of a folder and its subfolders, but hidden ones, by their path without ending."""
    found: dict[str, list[Path]] = {}
    for pattern in ("*", "*/*"):
        for path in sorted(folder.glob(pattern)):
            relative = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in relative.parts)
            if not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                found.setdefault(relative.with_suffix("").as_posix(), []).append(path)
    return found


def _several(kind: str, paths: list[Path]) -> str:
    return f"several {kind} of one name: {', '.join(map(str, paths))} (keep one of them)"


_FOLDER: Final = "MainPatient"
_CLASS_FILE: Final = "class.json"
_TEST_CLASS: Final = 1
"""Class of the lines of a test file, which SAMUS takes unless it is told another."""

_SUBSET_FILE: Final = re.compile(rf"(?:{'|'.join(SUBSETS)})(?:-(?P<task>.+))?")


def is_us30k(root: Path) -> bool:
    """Whether a folder has the subfolder ``MainPatient``."""
    return (root / _FOLDER).is_dir()


def task_of_file(path: Path) -> str | None:
    """Task of a subset file: ``"Breast-BUSI"`` for ``train-Breast-BUSI.txt``, ``""`` for
    ``train.txt``, None for any other name."""
    match = _SUBSET_FILE.fullmatch(path.stem) if path.suffix == ".txt" else None
    return None if match is None else match["task"] or ""


def scan_us30k(root: Path) -> DatasetListing:
    """List the cases that the subset files name, and the subsets of every task.

    Broken are lines that are malformed, of an unknown dataset or class, or without an image or a
    label file.

    Raises:
        DataError: if class.json or a subset file cannot be read.
    """
    reader = _Reader(root, _read_classes(root / _FOLDER / _CLASS_FILE))
    subsets: dict[str, dict[str, list[str]]] = {}
    for subset in SUBSETS:
        for path in sorted((root / _FOLDER).glob(f"{subset}*.txt")):
            task = task_of_file(path)
            if task is not None:
                keys = reader.read(path, with_class=subset != "test")
                subsets.setdefault(task, {})[subset] = keys
    return DatasetListing(
        root,
        "us30k",
        reader.cases,
        reader.broken,
        subsets,
        missing_text=f"no line of {{root}}/{_FOLDER}/*.txt names '{{key}}'",
    )


@dataclass
class _Reader:
    """Collects cases over all subset files, which mostly name the same ones."""

    root: Path
    class_counts: Mapping[str, int]
    cases: dict[str, UltrasoundCase] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    files: dict[str, frozenset[str]] = field(default_factory=dict)

    def read(self, path: Path, *, with_class: bool) -> list[str]:
        """Keys of the lines of a file; a broken line has its place as key."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise DataError(f"Cannot read {path}: {err}") from err
        keys: list[str] = []
        for number, line in enumerate(map(str.strip, lines), start=1):
            if not line:
                continue
            case = self._case(line, with_class)
            if isinstance(case, str):
                keys.append(f"{path.name}:{number}")
                self.broken[keys[-1]] = f"{path}, line {number}: {case}"
            else:
                keys.append(case.key)
                self.cases.setdefault(case.key, case)
        return keys

    def _case(self, line: str, with_class: bool) -> UltrasoundCase | str:
        """The case of a line, or what is wrong with it."""
        parts = line.split("/")
        if len(parts) == 2 and not with_class:
            parts = [str(_TEST_CLASS), *parts]
        if len(parts) != 3:
            expected = "class/dataset/file" if with_class else "dataset/file"
            return f"{line!r} must be {expected}"
        class_text, dataset, name = parts
        count = self.class_counts.get(dataset)
        if count is None:
            known = ", ".join(self.class_counts) or "none"
            return f"the dataset {dataset!r} is not in {_CLASS_FILE}, which has {known}"
        if not (class_text.isascii() and class_text.isdigit() and 1 <= int(class_text) < count):
            return f"the class {class_text!r} of {dataset} must be an integer from 1 to {count - 1}"
        image, label = (f"{dataset}/{folder}/{name}.png" for folder in ("img", "label"))
        missing = [file for file in (image, label) if not self._exists(file)]
        if missing:
            return " and ".join(f"{self.root / file} does not exist" for file in missing)
        mask_paths = (self.root / label,)
        if count == 2:
            return UltrasoundCase(f"{dataset}/{name}", self.root / image, mask_paths)
        value = int(class_text)
        key = f"{dataset}:{value}/{name}"
        return UltrasoundCase(key, self.root / image, mask_paths, label_value=value)

    def _exists(self, file: str) -> bool:
        folder, _, name = file.rpartition("/")
        if folder not in self.files:  # one listing instead of tens of thousands of questions
            entries = (self.root / folder).iterdir() if (self.root / folder).is_dir() else ()
            self.files[folder] = frozenset(entry.name for entry in entries)
        return name in self.files[folder]


@dataclass(frozen=True)
class _Classes:
    """Number of classes by dataset, with the background."""

    classes: Mapping[str, Annotated[int, Bound("2 or more", lambda count: count >= 2)]]


def _read_classes(path: Path) -> Mapping[str, int]:
    try:
        return from_json(_Classes, {"classes": parse_json(path.read_bytes())}).classes
    except (OSError, ValueError) as err:
        raise DataError(
            f"Cannot read {path}: {err}. It must hold the number of classes of each dataset, 2 or "
            'more because the background counts, as in {"Breast-BUSI": 2}.'
        ) from err


_MASK_NAME: Final = re.compile(r"(?P<stem>.+)_mask(?:_(?P<index>\d+))?")


def is_busi(root: Path) -> bool:
    """Whether a folder has subfolders with masks named like BUSI's."""
    return any(_MASK_NAME.fullmatch(path.stem) for path in root.glob("*/*.png"))


def scan_busi(root: Path) -> DatasetListing:
    """List the cases of a folder, keys such as ``"benign/benign (104)"``, numbers by value.

    An image without a mask file and a mask file without an image are broken.
    """
    images: dict[str, Path] = {}
    masks: dict[str, list[tuple[int, Path]]] = {}
    for path in root.glob("*/*.png"):
        match = _MASK_NAME.fullmatch(path.stem)
        if match is None:
            images[f"{path.parent.name}/{path.stem}"] = path
        else:
            index = int(match["index"] or 0)
            masks.setdefault(f"{path.parent.name}/{match['stem']}", []).append((index, path))
    cases: dict[str, UltrasoundCase] = {}
    broken: dict[str, str] = {}
    for key in sorted({*images, *masks}, key=natural_order):
        if key not in images:
            broken[key] = f"no image for '{key}' (expected {root / key}.png)"
        elif key not in masks:
            broken[key] = f"no mask for '{key}' (expected {root / key}_mask.png)"
        else:
            paths = tuple(path for _, path in sorted(masks[key]))
            cases[key] = UltrasoundCase(key, images[key], paths)
    return DatasetListing(root, "busi", cases, broken)


@dataclass(frozen=True)
class _Layout:
    fits: Callable[[Path], bool]
    scan: Callable[[Path], DatasetListing]
    text: str


LAYOUTS: Final[Mapping[str, _Layout]] = {  # in the order in which they are tried
    "us30k": _Layout(
        is_us30k,
        scan_us30k,
        "us30k: MainPatient/class.json, MainPatient/train.txt (val, test), DATASET/img/NAME.png "
        "and DATASET/label/NAME.png",
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
    """List the content of a dataset folder without decoding it (see `dataset_check`).

    Args:
        root: the dataset folder.
        layout: one of `LAYOUTS`, or ``"auto"`` for the first that fits.

    Returns:
        The listing; broken cases are in it, they raise nothing yet.

    Raises:
        DataError: if the folder does not exist, no layout fits, or it holds no image.
        BadArgumentError: if there is no such layout.
    """
    root = Path(root)
    if layout not in ("auto", *LAYOUTS):
        raise BadArgumentError(f"layout must be one of auto, {', '.join(LAYOUTS)}, got {layout!r}.")
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
        keys: case keys such as ``"benign/benign (104)"``; None for every case, sorted by key
            (numbers by value), or in the order of the layout's subset files.
        layout: one of `LAYOUTS`, or ``"auto"``.

    Raises:
        DataError: if ``root`` is no such folder, or if files of a case are missing. All such cases
            are named in one error.
    """
    listing = scan_dataset(root, layout)
    return listing.select((*listing.cases, *listing.broken) if keys is None else keys)


def load_subsets(
    root: str | Path, split_file: str | Path | None = None, *, names: Sequence[str] = SUBSETS
) -> Subsets:
    """List the subsets of a dataset, from which training and evaluation start.

    Args:
        root: the dataset folder, in any layout.
        split_file: a JSON split file (see `load_split`); for US30K also one of its own subset
            files, ``MainPatient/train-TASK.txt``, which stands for those of that task. None for
            the subsets that the layout has itself (US30K: ``train.txt``, ``val.txt``,
            ``test.txt``).
        names: the subsets that are needed; files of others may be missing.

    Returns:
        The subsets in file order, normal images included (see `select_lesions`).

    Raises:
        DataError: if a subset is not defined, a file of its cases is missing, or a case, an image
            or a group of near-duplicates is in several subsets.
        BadArgumentError: if a name is not one of ``SUBSETS``.
    """
    unknown = [name for name in names if name not in SUBSETS]
    if unknown:
        raise BadArgumentError(f"names must be of {', '.join(SUBSETS)}, got {', '.join(unknown)}.")
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
    """Group number of each case's image, by key. Cases of several classes share an image."""
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
