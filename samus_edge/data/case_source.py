"""Where a training gets decoded cases from: memory, or a cache on disk."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, read_image, read_instances

__all__ = ["CaseSource", "CasesInMemory"]


class CaseSource(Protocol):
    """Decoded images and masks of cases; `samus_edge.data.case_cache.CaseCache` is one on disk."""

    def image(self, case: UltrasoundCase) -> npt.NDArray[np.uint8]:
        """What `read_image` returns: (H, W), uint8, grey 0..255."""

    def instances(self, case: UltrasoundCase) -> list[npt.NDArray[np.bool_]]:
        """What `read_instances` returns: (H, W), bool, of each lesion."""


class CasesInMemory:
    """Cases decoded once and held: fastest, two bytes and more for each pixel.

    Args:
        cases: the cases.

    Raises:
        DataError: if a case cannot be read.
    """

    def __init__(self, cases: Iterable[UltrasoundCase]) -> None:
        self._decoded = {case: (read_image(case), read_instances(case)) for case in cases}

    def image(self, case: UltrasoundCase) -> npt.NDArray[np.uint8]:
        """The image of one of the cases."""
        return self._decoded[case][0]

    def instances(self, case: UltrasoundCase) -> list[npt.NDArray[np.bool_]]:
        """The lesions of one of the cases."""
        return self._decoded[case][1]
