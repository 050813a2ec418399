"""A teacher's views and masks of images, kept in files so that it is asked once."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samus_edge.data.augmentation import AugmentationConfig, augment_geometry
from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.data.prompt_protocol import mask_box
from samus_edge.errors import DataError, OutputFileError
from samus_edge.evaluation.metrics import dice
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.training.checkpoint import remove_unfinished_files
from samus_edge.training.teachers import Mask, Teacher, UInt8Image

FINGERPRINT = "fingerprint"


def fingerprint_of(settings: Mapping[str, Any], *arrays: npt.NDArray[np.generic]) -> str:
    """SHA-256 of settings in any order and of arrays with their shapes: 64 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class TeacherCache:
    """Tensors in a folder, one file per image, each with the fingerprint of its sources.

    Args:
        folder: created if missing, and cleared of files that a killed process left unfinished. It
            may be deleted; its content is then made again.

    Raises:
        OutputFileError: if the folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise OutputFileError(
                f"The folder {folder} cannot be created ({err.strerror or err}). "
                "Give a folder, or a name that is free, where you may write."
            ) from err
        remove_unfinished_files(folder)

    def path(self, index: int) -> Path:
        """The file of an image, whether it exists or not."""
        return self.folder / f"{index:06d}.safetensors"

    def holds(self, index: int, fingerprint: str) -> bool:
        """Whether the file is there, whole, and made from the same."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.path(index)), framework="pt") as file:
                return (file.metadata() or {}).get(FINGERPRINT) == fingerprint
        except (OSError, SafetensorError):
            return False

    def write(self, index: int, fingerprint: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an image's tensors atomically; an earlier file is replaced.

        Raises:
            OutputFileError: if the file cannot be written.
        """
        from safetensors.torch import save

        content = save(dict(tensors), metadata={FINGERPRINT: fingerprint})
        write_files_atomically({self.path(index): content})

    def read(self, index: int, name: str) -> Tensor:
        """One tensor of an image that the cache holds; the others are not read."""
        from safetensors import safe_open

        with safe_open(str(self.path(index)), framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


VIEW_STREAM = 7  # of random numbers, apart from those of samples and steps
TEACHER_BATCH = 4


@dataclass(frozen=True)
class TeacherViews:
    """Frames and their embeddings on disk, read when asked for; about 0.8 MB a view.

    Attributes:
        cache: their files.
        images: number of images.
        views: views of each image; those of an image are next to each other.
    """

    cache: TeacherCache
    images: int
    views: int

    def __len__(self) -> int:
        return self.images * self.views

    def frame(self, index: int) -> UInt8Image:
        """The view, (H, W), uint8, of the size of its image."""
        image, view = divmod(index, self.views)
        frame: UInt8Image = self.cache.read(image, f"frame_{view}").numpy()
        return frame

    def embedding(self, index: int) -> Tensor:
        """The teacher's embedding of the view, (256, 32, 32), float16."""
        image, view = divmod(index, self.views)
        return self.cache.read(image, f"embedding_{view}")

    def variance(self) -> float:
        """Variance of each channel over all places of all views, averaged over the channels."""
        count = 0
        total, squares = torch.zeros(1).double(), torch.zeros(1).double()  # (C,) after the first
        for index in range(len(self)):
            values = self.embedding(index).flatten(1).double()  # (C, h * w)
            count += values.shape[1]
            total = total + values.sum(dim=1)
            squares = squares + values.square().sum(dim=1)
        return float(((squares - total.square() / count) / (count - 1)).mean())


def make_teacher_views(
    teacher: Teacher,
    cases: Sequence[UltrasoundCase],
    *,
    views: int,
    augmentation: AugmentationConfig,
    seed: int,
    precision: str,
    cache: TeacherCache,
    progress: Callable[[int], None] = lambda done: None,
) -> TeacherViews:
    """Have a teacher embed random views of images, with or without a lesion.

    A view is turned, zoomed, shifted and mirrored, but neither deformed nor stored smaller: the
    teacher is to see anatomy as it is. The student's appearance and resolution are changed later.

    Args:
        teacher: the teacher.
        cases: the images; a view depends on the place of its image.
        views: views of each image.
        augmentation: strengths of the geometry.
        seed: seed of the views.
        precision: the teacher's precision.
        cache: files of the views; those that are there and fit are kept.
        progress: called with the number of views that are there.

    Raises:
        DataError: if an image cannot be read.
        OutputFileError: if a view cannot be written.
    """
    geometry = replace(augmentation, elastic_probability=0.0, resolution_probability=0.0)
    settings = {
        "precision": precision,
        "teacher_sha256": teacher.weights_sha256,
        "views": views,
        "geometry": asdict(geometry),
        "seed": seed,
    }
    for index, case in enumerate(cases):
        image = read_image(case)
        fingerprint = fingerprint_of({**settings, "index": index}, image)
        if not cache.holds(index, fingerprint):
            frames = []
            for view in range(views):
                rng = np.random.default_rng((seed, VIEW_STREAM, index, view))
                frames.append(augment_geometry(image, [], geometry, rng, mask_size=0)[0])
            cache.write(index, fingerprint, _embedded(teacher, frames))
        progress((index + 1) * views)
    return TeacherViews(cache, len(cases), views)


def _embedded(teacher: Teacher, frames: list[UInt8Image]) -> dict[str, Tensor]:
    """Tensors of one image's views, by name."""
    batches = [
        teacher.embeddings(frames[start : start + TEACHER_BATCH])
        for start in range(0, len(frames), TEACHER_BATCH)
    ]
    tensors = {}
    for view, (frame, embedding) in enumerate(zip(frames, torch.cat(batches), strict=True)):
        tensors[f"frame_{view}"] = torch.from_numpy(np.ascontiguousarray(frame))
        tensors[f"embedding_{view}"] = embedding.half().contiguous()
    return tensors


MASKS_NAME = "masks"


@dataclass(frozen=True, eq=False)
class TeacherMasks:
    """Masks that a student learns beside the annotated ones.

    Attributes:
        masks: for each case and each of its lesions a mask, (H, W), bool: the teacher's, or the
            annotated one where the teacher's agrees too little with it.
        dices: Dice of the teacher's mask and the annotated one, lesion by lesion, in [0, 1].
        min_dice: Dice below which a teacher's mask is left out.
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
    precision: str,
    cache: TeacherCache,
    progress: Callable[[int], None] = lambda done: None,
) -> TeacherMasks:
    """Have a teacher segment every lesion from its exact box.

    Args:
        teacher: the teacher.
        cases: cases with at least one lesion each.
        min_dice: Dice with the annotated mask below which this replaces the teacher's.
        precision: the teacher's precision.
        cache: files of the teacher's masks; those that are there and fit are kept.
        progress: called with the number of cases done.

    Raises:
        DataError: if a case cannot be read or has no lesion.
        OutputFileError: if masks cannot be written.
    """
    settings = {"precision": precision, "teacher_sha256": teacher.weights_sha256}
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
