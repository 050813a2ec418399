"""Real frames with prompts, drawn by seed: what bundles are verified and calibrated on."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import (
    UltrasoundCase,
    natural_order,
    read_image,
    read_instances,
    select_lesions,
)
from samus_edge.data.dataset import IMAGE_SUFFIXES
from samus_edge.data.prompt_protocol import (
    STANDARD_PROTOCOLS,
    Prompt,
    case_generator,
    ordered_edges,
)
from samus_edge.errors import BadArgumentError, DataError
from samus_edge.runtime.bundle.records import JsonValue
from samus_edge.runtime.images import image_io

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

DRAWN_BOX: Final = "drawn_box"
"""A box anywhere, a fifth to a half of the frame wide and high."""

DRAWN_BOX_AND_POINT: Final = "drawn_box_and_point"
"""Another such box, with a foreground point at its centre."""

DRAWN_POINT: Final = "drawn_point"
"""One foreground point anywhere."""


@dataclass(frozen=True, eq=False)
class PromptedFrame:
    """A frame with its prompts.

    Attributes:
        name: name of the case or file.
        group: frames that share it are near-duplicates, no independent evidence.
        image: (H, W), uint8, grey.
        prompts: by the kind of prompt, one for each lesion; in pixels of the frame.
        targets: (H, W), bool, of each lesion; None where they are not known.
    """

    name: str
    group: str
    image: Image
    prompts: Mapping[str, Sequence[Prompt]]
    targets: Sequence[Mask] | None = None

    @property
    def hw(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, eq=False)
class FrameSource:
    """Frames with prompts; made by one of the functions below.

    Attributes:
        loaders: each reads one frame.
        seed: the seed that prompts were drawn with.
        about: what the frames are from, for reports.
    """

    loaders: tuple[Callable[[], PromptedFrame], ...]
    seed: int
    about: Mapping[str, JsonValue]

    def __len__(self) -> int:
        return len(self.loaders)

    def frames(self) -> Iterator[PromptedFrame]:
        """Read frame after frame, of which none is kept.

        Raises:
            DataError, ImageFileError: if a file is missing or broken.
        """
        return (load() for load in self.loaders)


def lesions_of_cases(
    cases: Sequence[UltrasoundCase],
    *,
    groups: Mapping[str, int] | None = None,
    limit: int | None = None,
    max_per_case: int | None = None,
    seed: int = 0,
    about: Mapping[str, JsonValue] | None = None,
) -> FrameSource:
    """Lesions of a dataset, each prompted as in an evaluation: jittered box and centre point.

    Args:
        cases: the cases; those without a lesion are left out.
        groups: group number of each case key, see `samus_edge.data.dataset.Subsets`.
        limit: how many lesions at most, drawn by seed; None for all.
        max_per_case: how many lesions of one case at most; None for all.
        seed: seed of the draw and the prompts; at least 0.
        about: the data, for reports.

    Raises:
        BadArgumentError: if the limit is less than 1 or the seed is negative.
        DataError: if no case has a lesion, or a file is missing or broken.
    """
    _check_draw(limit, seed)
    groups = groups or {}
    left = limit
    chosen: dict[int, int] = {}  # lesions by the position of the case
    for position in np.random.default_rng(seed).permutation(len(cases)).tolist():
        if left == 0:
            break
        count = len(read_instances(cases[position])[:max_per_case])
        if left is not None:
            count = min(count, left)
            left -= count
        if count:
            chosen[position] = count
    if not chosen:
        raise DataError(
            f"None of the {len(cases)} cases has a lesion. Name a dataset with masks, or a folder "
            "of frames."
        )
    loaders = []
    for position in sorted(chosen):
        case = cases[position]
        group = f"group {groups[case.key]}" if case.key in groups else case.key
        loaders.append(partial(_load_case, case, group, chosen[position], seed))
    return FrameSource(tuple(loaders), seed, dict(about or {}))


def frames_of_cases(cases: Sequence[UltrasoundCase], count: int, seed: int) -> list[PromptedFrame]:
    """Lesion images of a dataset, each with its first lesion, as `lesions_of_cases` draws."""
    source = lesions_of_cases(select_lesions(cases), limit=count, max_per_case=1, seed=seed)
    return list(source.frames())


def frames_of_folder(
    folder: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    about: Mapping[str, JsonValue] | None = None,
) -> FrameSource:
    """Frames without masks from a folder of image files; for prompts see `prompted_frame`.

    Args:
        folder: holds PNG, JPEG, BMP or TIFF files; folders in it are not searched.
        limit: how many frames at most, drawn by seed; None for all.
        seed: seed of the draw and the prompts; at least 0.
        about: the data, for reports; the folder's name if left out.

    Raises:
        BadArgumentError: if the limit is less than 1 or the seed is negative.
        DataError: if the folder holds no image.
    """
    _check_draw(limit, seed)
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    paths.sort(key=lambda path: natural_order(path.name))
    chosen = sorted(np.random.default_rng(seed).permutation(len(paths))[:limit].tolist())
    loaders = [partial(_load_file, paths[position], seed) for position in chosen]
    where: dict[str, JsonValue] = {"data": folder.resolve().name}
    return FrameSource(tuple(loaders), seed, where if about is None else dict(about))


def frames_of_images(
    images: Mapping[str, Image], *, seed: int = 0, about: Mapping[str, JsonValue] | None = None
) -> FrameSource:
    """Frames without masks that are in memory already; for prompts see `prompted_frame`.

    Args:
        images: (H, W), uint8, grey, by name.
        seed: seed of the prompts; at least 0.
        about: the data, for reports.

    Raises:
        BadArgumentError: if there is no image or the seed is negative.
    """
    _check_draw(None, seed)
    if not images:
        raise BadArgumentError("images must hold at least one frame, got none.")
    loaders = [partial(prompted_frame, name, image, seed=seed) for name, image in images.items()]
    return FrameSource(tuple(loaders), seed, dict(about or {}))


def prompted_frame(name: str, image: Image, *, seed: int) -> PromptedFrame:
    """A frame whose lesions are not known; a box, a box with a point, and a point are drawn.

    Args:
        name: name of the frame.
        image: (H, W), uint8, grey.
        seed: seed of the prompts, which depend on it, the name and the size alone.
    """
    rng = case_generator(name, 0, seed)
    last = np.array([image.shape[1] - 1, image.shape[0] - 1])
    boxes = []
    for _ in range(2):
        corner = rng.uniform(0.0, 0.5, size=2) * last
        opposite = corner + rng.uniform(0.2, 0.5, size=2) * last
        edges = [ordered_edges(*pair) for pair in zip(corner, opposite, last, strict=True)]
        (x1, x2), (y1, y2) = edges
        boxes.append(np.array([x1, y1, x2, y2], dtype=np.float32))
    centre = boxes[1].reshape(2, 2).mean(axis=0)[None]  # (1, 2)
    point = (rng.uniform(0.1, 0.9, size=(1, 2)) * last).astype(np.float32)
    prompts = {
        DRAWN_BOX: [Prompt(box=boxes[0])],
        DRAWN_BOX_AND_POINT: [Prompt(box=boxes[1], points=centre)],
        DRAWN_POINT: [Prompt(points=point)],
    }
    return PromptedFrame(name, name, image, prompts)


def frames_digest(frames: Sequence[PromptedFrame]) -> str:
    """SHA-256 over the frames' pixels and sizes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(repr(frame.image.shape).encode())
        digest.update(np.ascontiguousarray(frame.image).tobytes())
    return digest.hexdigest()


def _check_draw(limit: int | None, seed: int) -> None:
    if limit is not None and limit < 1:
        raise BadArgumentError(f"limit must be at least 1, got {limit}.")
    if seed < 0:
        raise BadArgumentError(f"seed must be at least 0, got {seed}.")


def _load_case(case: UltrasoundCase, group: str, count: int, seed: int) -> PromptedFrame:
    targets = read_instances(case)[:count]
    prompts = {
        protocol.name: [
            protocol.prompt(target, case_generator(case.key, instance, seed))
            for instance, target in enumerate(targets)
        ]
        for protocol in STANDARD_PROTOCOLS
    }
    return PromptedFrame(case.key, group, read_image(case), prompts, targets)


def _load_file(path: Path, seed: int) -> PromptedFrame:
    return prompted_frame(path.name, image_io.read_image(path), seed=seed)
