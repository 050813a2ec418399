"""A teacher's masks of annotated lesions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.errors import DataError
from samus_edge.evaluation.metrics import dice
from samus_edge.evaluation.prompt_protocol import mask_box
from samus_edge.training.teacher import Mask, Teacher
from samus_edge.training.teacher_cache import TeacherCache, fingerprint_of

MASKS_NAME = "masks"


@dataclass(frozen=True, eq=False)
class TeacherMasks:
    """What a student learns beside the annotated masks.

    Attributes:
        masks: for each case and each of its lesions a mask, (H, W), bool: the teacher's, or the
            annotated one where the teacher's agrees too little with it.
        dices: Dice of the teacher's mask and the annotated one, lesion by lesion, in [0, 1].
        min_dice: the least that a teacher's mask has to agree.
    """

    masks: list[list[Mask]]
    dices: list[float]
    min_dice: float

    def summary(self) -> str:
        """One line for a log."""
        replaced = sum(value < self.min_dice for value in self.dices)
        return (
            f"the teacher's masks agree with the annotated ones to a mean Dice of "
            f"{float(np.mean(self.dices)):.3f}; {replaced} of {len(self.dices)} agree less than "
            f"{self.min_dice:g} and are left out"
        )


def make_teacher_masks(
    teacher: Teacher,
    cases: Sequence[UltrasoundCase],
    *,
    min_dice: float,
    settings: dict[str, object],
    cache: TeacherCache,
    progress: Callable[[int], None] = lambda done: None,
) -> TeacherMasks:
    """Have a teacher segment every lesion from its exact box.

    Args:
        teacher: the teacher.
        cases: cases with at least one lesion each.
        min_dice: a mask that agrees less with the annotated one is replaced by it.
        settings: whatever else the masks depend on, for the fingerprint.
        cache: where the teacher's masks go; those that are there and fit are kept.
        progress: called with the cases done.

    Raises:
        DataError: if a case cannot be read or has no lesion.
        OutputFileError: if masks cannot be written.
    """
    settings = {**settings, "teacher_sha256": teacher.weights_sha256}
    masks: list[list[Mask]] = []
    dices: list[float] = []
    for index, case in enumerate(cases):
        image, instances = read_image(case), read_instances(case)
        if not instances:
            raise DataError(f"Case '{case.key}' has no lesion, so there is no box to segment.")
        annotated = np.stack(instances)  # (N, H, W)
        fingerprint = fingerprint_of(settings, image, annotated)
        if not cache.holds(index, fingerprint):
            boxes = np.stack([mask_box(mask) for mask in instances])
            bits = np.packbits(teacher.masks(image, boxes), axis=-1)
            cache.write(index, fingerprint, {MASKS_NAME: torch.from_numpy(bits)})
        bits = cache.read(index, MASKS_NAME).numpy()
        predicted: npt.NDArray[np.bool_] = np.unpackbits(bits, axis=-1, count=image.shape[1]).view(
            np.bool_
        )
        agreement = [dice(one, other) for one, other in zip(predicted, annotated, strict=True)]
        pairs = zip(predicted, annotated, agreement, strict=True)
        masks.append([mine if value >= min_dice else true for mine, true, value in pairs])
        dices += agreement
        progress(index + 1)
    return TeacherMasks(masks, dices, min_dice)
