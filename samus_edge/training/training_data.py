"""The cases of a training."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.case_source import CaseSource


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from, and what it is judged by.

    Attributes:
        train_cases: cases with lesions to learn from.
        val_cases: cases with lesions to choose the best weights by.
        normal_cases: cases without a lesion to learn from, if any.
        teacher_masks: a teacher's mask of each lesion of each training case, (H, W), bool, if any.
        source: decoded cases; None to decode them and hold them in memory.
    """

    train_cases: Sequence[UltrasoundCase]
    val_cases: Sequence[UltrasoundCase]
    normal_cases: Sequence[UltrasoundCase] = ()
    teacher_masks: Sequence[Sequence[npt.NDArray[np.bool_]]] | None = None
    source: CaseSource | None = None

    @property
    def train_count(self) -> int:
        """Cases to learn from, with lesions or without."""
        return len(self.train_cases) + len(self.normal_cases)

    def fingerprint(self) -> str:
        """Tells the cases and their order from others: 16 hexadecimal digits."""
        names = [
            "\n".join(case.key for case in cases)
            for cases in (self.train_cases, self.val_cases, self.normal_cases)
        ]
        text = "\n\n".join(names).encode(errors="surrogateescape")
        return hashlib.sha256(text).hexdigest()[:16]
