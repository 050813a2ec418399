"""US30K, the collection that SAMUS was trained on, in the layout that its code reads.

```
US30K/
    MainPatient/class.json           {"Breast-BUSI": 2, "Echocardiography-CAMUS": 4, ...}: classes of
                                     each dataset, the background included
    MainPatient/train.txt            lines "class/dataset/file": 2/Echocardiography-CAMUS/0055_2CH_000
    MainPatient/val.txt              the same
    MainPatient/test.txt             lines "dataset/file", class 1; "class/dataset/file" is read too
    MainPatient/train-TASK.txt ...   the same for a part of the collection, also val- and test-
    Breast-BUSI/img/benign0046.png   the image; the file in a line has no ending
    Breast-BUSI/label/benign0046.png its label map: pixels hold class numbers
```

A case is an image with one class: the mask is what holds that number. In a dataset of two classes
any value but 0 is class 1, because some of its label maps hold 255. Each dataset is a class here;
in those of more than two the number is part of the name, as in ``"Echocardiography-CAMUS:2"``.

Source:
    `ImageToImage2D` in utils/data_us.py and example_of_required_dataset_format of
    https://github.com/xianlin7/SAMUS (commit 030ed07). We differ: broken lines are errors, empty
    lines are not.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.listing import DatasetListing
from samus_edge.data.split_file import SUBSETS
from samus_edge.errors import DataError

__all__ = ["is_us30k", "scan_us30k", "task_of_file"]

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
    """List the cases that the subset files name.

    Args:
        root: the folder that contains ``MainPatient``.

    Returns:
        The listing, with the subsets of every task. Broken are lines that are malformed, of an
        unknown dataset or class, or without an image or a label file.

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
    class_counts: dict[str, int]
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


def _read_classes(path: Path) -> dict[str, int]:
    """Number of classes by dataset."""
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(
            f"Cannot read {path}: {err}. It must hold the number of classes of each dataset, the "
            'background included, as in {"Breast-BUSI": 2}.'
        ) from err
    if not isinstance(document, dict) or not all(
        isinstance(count, int) and not isinstance(count, bool) and count >= 2
        for count in document.values()
    ):
        raise DataError(
            f"{path} must hold the number of classes of each dataset, 2 or more because the "
            f'background counts, as in {{"Breast-BUSI": 2}}, got {document!r:.120}.'
        )
    return {str(dataset): count for dataset, count in document.items()}
