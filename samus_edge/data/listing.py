"""What a dataset folder holds, before anything is decoded: cases, and what is missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samus_edge.data.case import UltrasoundCase, list_problems
from samus_edge.errors import DataError

__all__ = ["DatasetListing"]


@dataclass(frozen=True)
class DatasetListing:
    """The cases of a folder in one of the layouts, and all that is wrong with its files.

    Attributes:
        root: the folder.
        layout: name of the layout.
        cases: whole cases by key, in order.
        broken: what is wrong with a case, by key; also lines that name no case, by file and line.
        own_subsets: keys (also those of ``broken``) of ``train``, ``val`` and ``test`` where the
            layout names them itself, by task; the task of the whole dataset is ``""``.
        missing_text: what to say of a key that is in none of these, with ``{key}`` and ``{root}``.
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
        """The cases of the given keys that are whole, and what is wrong with the others."""
        found: list[UltrasoundCase] = []
        problems: list[str] = []
        for key in keys:
            if key in self.cases:
                found.append(self.cases[key])
            else:
                problems.append(
                    self.broken.get(key) or self.missing_text.format(key=key, root=self.root)
                )
        return found, problems
