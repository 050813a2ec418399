"""Several datasets in one training: a list of them, each with the rule by which it is split.

A rule is a split file, or regular expressions on the keys of cases and shares for what they leave.
Near-duplicates and the cases of a patient stay together under every rule.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from samus_edge.data.case import LESIONS, UltrasoundCase, list_problems
from samus_edge.data.dataset import Subsets, list_cases, load_subsets
from samus_edge.data.splitting import (
    SUBSETS,
    Fractions,
    assign_subsets,
    group_cases,
    select_matching,
    split_file_text,
)
from samus_edge.errors import BadArgumentError, DataError
from samus_edge.runtime.bundle.records import Fraction, Positive, check_record, one_of
from samus_edge.runtime.images.output_files import write_files_atomically

RULE: Final = ("patient", "skip", "val", "test", "fractions", "seed")
"""Fields of `DatasetConfig` that make a split."""


@dataclass(frozen=True)
class DatasetConfig:
    """One of the datasets of a training.

    Attributes:
        folder: its folder, relative to that of all datasets.
        name: name in logs and tables; empty for the folder's own.
        weight: how often an epoch shows each image; 0.5 for half of them, drawn anew each time.
        lesions: what one prompt is for: "files", each mask file; "parts", each connected part of a
            mask file, with touching lesions cut apart; "together", all that an image shows.
        crop_probability: chance that training shows a window around the lesion, not the whole
            image.
        proposals: whether its images train the lesion proposer: not where they are cropped to what
            is marked, or where that is no lesion.
        split: split file, relative to the folder of all datasets; empty for the rule that follows.
        patient: regular expression; cases in whose key it finds the same text stay together.
        skip: regular expression; cases whose key it matches are left out.
        val: regular expression; cases whose key it matches are validated on.
        test: regular expression; cases whose key it matches are tested on.
        fractions: shares of train, val and test among what the expressions leave.
        seed: seed of the order in which they are dealt out.
    """

    folder: str
    name: str = ""
    weight: Positive = 1.0
    lesions: Annotated[str, one_of(LESIONS)] = "files"
    crop_probability: Fraction = 0.0
    proposals: bool = False
    split: str = ""
    patient: str = ""
    skip: str = ""
    val: str = ""
    test: str = ""
    fractions: tuple[float, ...] = (0.7, 0.1, 0.2)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            BadArgumentError: naming every bad one.
        """
        check_record(self)
        if len(self.fractions) != len(SUBSETS):
            raise BadArgumentError(f"fractions must be three numbers, got {self.fractions}.")
        Fractions(*self.fractions)
        fields = dataclasses.fields(self)
        rule = [f.name for f in fields if f.name in RULE and getattr(self, f.name) != f.default]
        if self.split and rule:
            raise BadArgumentError(
                f"{self.title}: split names a file, which leaves nothing to {', '.join(rule)}. "
                "Remove one or the other."
            )

    @property
    def title(self) -> str:
        """Its name, or that of its folder."""
        return self.name or Path(self.folder).name


def load_collection(
    root: Path, datasets: Sequence[DatasetConfig], splits: Path | None = None
) -> dict[str, Subsets]:
    """List the subsets of every dataset.

    Args:
        root: folder of all datasets.
        datasets: the datasets.
        splits: folder of the split files that rules make, `NAME.json`; one that is there is read
            again. None to keep none.

    Returns:
        The subsets by the dataset's name; each case knows it.

    Raises:
        DataError: if a dataset cannot be read, its subsets leak, an image is in the training of
            one dataset and in another one's val or test, or a split file was made by another rule.
        BadArgumentError: if two datasets have one name, or a rule leaves a subset empty.
    """
    titles = [dataset.title for dataset in datasets]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise BadArgumentError(
            f"several datasets are called {', '.join(twice)}; give each a name of its own."
        )
    found = {}
    for dataset in datasets:
        folder = root / dataset.folder
        if dataset.split:
            subsets = load_subsets(folder, root / dataset.split)
        else:
            file = None if splits is None else splits / f"{dataset.title}.json"
            subsets = _split_by_rule(folder, dataset, file)
        found[dataset.title] = _labelled(subsets, dataset)
    _refuse_leaks(found)
    return found


def joined(subsets: Sequence[Subsets]) -> Subsets:
    """The subsets of several datasets as those of one; without groups, whose keys may collide."""
    return Subsets(
        train=[case for each in subsets for case in each.train],
        val=[case for each in subsets for case in each.val],
        test=[case for each in subsets for case in each.test],
    )


def _split_by_rule(folder: Path, dataset: DatasetConfig, file: Path | None) -> Subsets:
    """The subsets that the rule gives, read from the file if it was made by the same rule."""
    rule: dict[str, Any] = {name: getattr(dataset, name) for name in RULE}
    about = {"dataset": dataset.title, "rule": {**rule, "fractions": list(dataset.fractions)}}
    if file is None or not file.exists():
        cases = list_cases(folder)
        skipped = select_matching(cases, dataset.skip)
        cases = [case for case in cases if case.key not in skipped]
        groups = group_cases(cases, patient_pattern=dataset.patient or None).groups
        split = assign_subsets(
            cases,
            groups,
            Fractions(*dataset.fractions),
            seed=dataset.seed,
            patterns={"test": dataset.test, "val": dataset.val},
        )
        if file is None:
            by_key = {case.key: case for case in cases}
            of_subset = {name: [by_key[key] for key in keys] for name, keys in split.items()}
            return Subsets(**of_subset, groups=groups)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_files_atomically({file: split_file_text(split, groups, about).encode()})
    elif json.loads(file.read_bytes()).get("rule") != about["rule"]:
        raise DataError(
            f"{file} was not made by the rule of the dataset {dataset.title}. Remove it, or use "
            "another folder."
        )
    return load_subsets(folder, file)


def _labelled(subsets: Subsets, dataset: DatasetConfig) -> Subsets:
    def labelled(cases: Sequence[UltrasoundCase]) -> list[UltrasoundCase]:
        return [
            dataclasses.replace(case, dataset=dataset.title, lesions=dataset.lesions)
            for case in cases
        ]

    of_subset = {name: labelled(subsets.get(name)) for name in SUBSETS}
    return Subsets(**of_subset, groups=subsets.groups)


def _refuse_leaks(found: dict[str, Subsets]) -> None:
    """Refuse a collection in which one dataset trains on an image that another one judges by."""
    trained = {
        case.image_path.resolve(): title for title, each in found.items() for case in each.train
    }
    leaks = [
        f"{case.image_path} is in train of {trained[path]} and in {name} of {title}"
        for title, each in found.items()
        for name in ("val", "test")
        for case in each.get(name)
        if (path := case.image_path.resolve()) in trained
    ]
    if leaks:
        raise DataError(list_problems("The datasets leak into each other", leaks))
