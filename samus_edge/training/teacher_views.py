"""Views of training frames with the embeddings that a teacher gives them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from samus_edge.data.augmentation import AugmentationConfig, augment_geometry
from samus_edge.data.case import UltrasoundCase, read_image
from samus_edge.training.teacher import Teacher, UInt8Image
from samus_edge.training.teacher_cache import TeacherCache, fingerprint_of

VIEW_STREAM = 7  # of random numbers, apart from those of samples and steps
TEACHER_BATCH = 4


@dataclass(frozen=True)
class TeacherViews:
    """Frames and embeddings on disk; about 0.8 MB a view, read when asked for.

    Attributes:
        cache: where they are.
        images: how many images they are views of.
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
        frame: UInt8Image = self.cache.read(image, _frame_name(view)).numpy()
        return frame

    def embedding(self, index: int) -> Tensor:
        """What the teacher makes of the view, (256, 32, 32), float16."""
        image, view = divmod(index, self.views)
        return self.cache.read(image, _embedding_name(view))

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
    settings: dict[str, object],
    cache: TeacherCache,
    progress: Callable[[int], None] = lambda done: None,
) -> TeacherViews:
    """Have a teacher embed random views of images, with or without a lesion.

    A view is turned, zoomed, shifted and mirrored, but neither deformed nor stored smaller: the
    teacher is to see anatomy as it is. The student's appearance and resolution are changed later.

    Args:
        teacher: the teacher.
        cases: the images, in an order that seeds them.
        views: views of each image.
        augmentation: strengths of the geometry.
        seed: seed of the views.
        settings: whatever else the embeddings depend on, for the fingerprint.
        cache: where the views go; those that are there and fit are kept.
        progress: called with the views that are there.

    Raises:
        DataError: if an image cannot be read.
        OutputFileError: if a view cannot be written.
    """
    geometry = replace(augmentation, elastic_probability=0.0, resolution_probability=0.0)
    settings = {
        **settings,
        "teacher_sha256": teacher.weights_sha256,
        "views": views,
        "geometry": asdict(geometry),
        "seed": seed,
    }
    for index, case in enumerate(cases):
        image = read_image(case)
        fingerprint = fingerprint_of({**settings, "index": index}, image)
        if not cache.holds(index, fingerprint):
            frames = [
                _view(image, geometry, np.random.default_rng((seed, VIEW_STREAM, index, view)))
                for view in range(views)
            ]
            cache.write(index, fingerprint, _embedded(teacher, frames))
        progress((index + 1) * views)
    return TeacherViews(cache, len(cases), views)


def _view(image: UInt8Image, geometry: AugmentationConfig, rng: np.random.Generator) -> UInt8Image:
    frame, _ = augment_geometry(image, [], geometry, rng, mask_size=0)
    return frame


def _embedded(teacher: Teacher, frames: list[UInt8Image]) -> dict[str, Tensor]:
    """Tensors of one image's views, by name."""
    batches = [
        teacher.embeddings(frames[start : start + TEACHER_BATCH])
        for start in range(0, len(frames), TEACHER_BATCH)
    ]
    tensors = {}
    for view, (frame, embedding) in enumerate(zip(frames, torch.cat(batches), strict=True)):
        tensors[_frame_name(view)] = torch.from_numpy(np.ascontiguousarray(frame))
        tensors[_embedding_name(view)] = embedding.half().contiguous()
    return tensors


def _frame_name(view: int) -> str:
    return f"frame_{view}"


def _embedding_name(view: int) -> str:
    return f"embedding_{view}"
