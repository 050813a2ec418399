"""The real frames and prompts that a bundle is verified on, drawn by seed and read one by one."""

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
from samus_edge.runtime.bundle.json_fields import JsonValue
from samus_edge.runtime.images import image_io
from samus_edge.runtime.images.image_io import grey_frame
from samus_edge.runtime.images.image_io import read_image as read_image_file

__all__ = [
    "DRAWN_BOX",
    "DRAWN_BOX_AND_POINT",
    "DRAWN_POINT",
    "VerificationFrame",
    "VerificationSource",
    "frames_of_folder",
    "frames_of_images",
    "lesions_of_cases",
]


@dataclass(frozen=True, eq=False)
class CalibrationFrame:
    """One frame with prompts.

    Attributes:
        name: of the case or file.
        image: (H, W), uint8, grey.
        prompts: what the mask decoder is asked; each is one prompt.
        target: (H, W), bool: the lesion that the prompts mean; None where it is not known.
    """

    name: str
    image: npt.NDArray[np.uint8]
    prompts: tuple[Prompt, ...]
    target: npt.NDArray[np.bool_] | None


def frames_of_cases(
    cases: Sequence[UltrasoundCase], count: int, seed: int
) -> list[CalibrationFrame]:
    """Draw lesion images of a dataset; each is prompted for its first lesion as in evaluation.

    Cases whose masks are empty are passed over.

    Args:
        cases: of the training subset, never of the one that results are reported on.
        count: how many frames at most.
        seed: of the draw and the prompts.

    Returns:
        In the order of ``cases``.

    Raises:
        DataError: if no case has a lesion, or a file is broken.
        ValueError: if ``count`` is less than 1.
    """
    lesions = select_lesions(cases)
    frames: dict[int, CalibrationFrame] = {}
    for index in _draw(len(lesions), count, seed):
        case = lesions[index]
        targets = read_instances(case)
        if targets:
            prompts = tuple(
                protocol.prompt(targets[0], case_generator(case.key, 0, seed))
                for protocol in STANDARD_PROTOCOLS
            )
            frames[index] = CalibrationFrame(case.key, read_image(case), prompts, targets[0])
        if len(frames) == count:
            break
    if not frames:
        raise DataError(
            f"None of the {len(cases)} cases has a lesion to calibrate on. Name a dataset with masks, "
            "or a folder of frames."
        )
    return [frame for _, frame in sorted(frames.items())]


def calibration_frames_of_folder(folder: Path, count: int, seed: int) -> list[CalibrationFrame]:
    """Draw frames from a folder of image files; their prompts are drawn as well.

    Args:
        folder: holds PNG, JPEG, BMP or TIFF files.
        count: how many frames at most.
        seed: of the draw and the prompts.

    Raises:
        DataError: if there is no image in the folder.
        ImageFileError: if one is broken.
        OSError: if the folder cannot be read.
        ValueError: if ``count`` is less than 1.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}) to calibrate on.")
    frames = []
    for index in sorted(_draw(len(paths), count, seed)[:count]):
        image = grey_frame(read_image_file(paths[index]))
        frames.append(prompted_frame(paths[index].name, image, seed=seed))
    return frames


def prompted_frame(name: str, image: npt.NDArray[np.uint8], *, seed: int) -> CalibrationFrame:
    """A frame of which no lesion is known, with prompts drawn by name and seed.

    Args:
        name: of the frame.
        image: (H, W), uint8, grey.
        seed: of the prompts.
    """
    prompts = _random_prompts(image.shape[1], image.shape[0], case_generator(name, 0, seed))
    return CalibrationFrame(name, image, prompts, None)


def frames_digest(frames: Sequence[CalibrationFrame]) -> str:
    """SHA-256 over the frames' pixels and sizes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(repr(frame.image.shape).encode())
        digest.update(np.ascontiguousarray(frame.image).tobytes())
    return digest.hexdigest()


def _draw(available: int, count: int, seed: int) -> list[int]:
    """All of them in the order in which they are drawn; checks how many are wanted."""
    if count < 1:
        raise BadArgumentError(f"count must be at least 1, got {count}.")
    return [int(index) for index in np.random.default_rng(seed).permutation(available)]


def _random_prompts(width: int, height: int, rng: np.random.Generator) -> tuple[Prompt, ...]:
    """A box, and the point at its centre."""
    last = np.array([width - 1, height - 1])
    corner = rng.uniform(0.1, 0.4, size=2) * last
    opposite = corner + rng.uniform(0.2, 0.5, size=2) * last
    box = np.concatenate((corner, opposite)).astype(np.float32)
    point = ((corner + opposite) / 2).astype(np.float32)
    return Prompt(box=box), Prompt(points=point[None])


Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

DRAWN_BOX: Final = "drawn_box"
"""A box anywhere, a fifth to a half of the frame wide and high."""

DRAWN_BOX_AND_POINT: Final = "drawn_box_and_point"
"""Another such box, with a foreground point at its centre."""

DRAWN_POINT: Final = "drawn_point"
"""One foreground point anywhere."""


@dataclass(frozen=True, eq=False)
class VerificationFrame:
    """A frame with its prompts.

    Attributes:
        name: of the case or file.
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


@dataclass(frozen=True, eq=False)
class VerificationSource:
    """Frames to verify on; made by one of the functions below.

    Attributes:
        loaders: each reads one frame.
        seed: that prompts were drawn with.
        about: what the frames are from, for reports.
    """

    loaders: tuple[Callable[[], VerificationFrame], ...]
    seed: int
    about: Mapping[str, JsonValue]

    def __len__(self) -> int:
        return len(self.loaders)

    def frames(self) -> Iterator[VerificationFrame]:
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
    seed: int = 0,
    about: Mapping[str, JsonValue] | None = None,
) -> VerificationSource:
    """Lesions of a dataset, each prompted as in an evaluation: jittered box and centre point.

    Args:
        cases: of which those without a lesion are left out.
        groups: group number of each case key, see `samus_edge.data.dataset.Subsets`.
        limit: how many lesions at most, drawn by seed; None for all.
        seed: of the draw and the prompts; at least 0.
        about: the data, for reports.

    Raises:
        ValueError: if the limit is less than 1 or the seed is negative.
        DataError: if no case has a lesion, or a file is missing or broken.
    """
    _check_draw(limit, seed)
    groups = groups or {}
    left = limit
    chosen: dict[int, int] = {}  # lesions by the position of the case
    for position in np.random.default_rng(seed).permutation(len(cases)).tolist():
        if left == 0:
            break
        count = len(read_instances(cases[position]))
        if left is not None:
            count = min(count, left)
            left -= count
        if count:
            chosen[position] = count
    if not chosen:
        raise DataError(f"None of the {len(cases)} cases has a lesion to verify on.")
    loaders = []
    for position in sorted(chosen):
        case = cases[position]
        group = f"group {groups[case.key]}" if case.key in groups else case.key
        loaders.append(partial(_load_case, case, group, chosen[position], seed))
    return VerificationSource(tuple(loaders), seed, dict(about or {}))


def frames_of_folder(
    folder: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    about: Mapping[str, JsonValue] | None = None,
) -> VerificationSource:
    """Frames without masks from a folder of image files; a box, a box with a point, and a point are
    drawn for each.

    Args:
        folder: holds PNG, JPEG, BMP or TIFF files; folders in it are not searched.
        limit: how many frames at most, drawn by seed; None for all.
        seed: of the draw and the prompts; at least 0.
        about: the data, for reports; the folder's name if left out.

    Raises:
        ValueError: if the limit is less than 1 or the seed is negative.
        DataError: if the folder holds no image.
    """
    _check_draw(limit, seed)
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise DataError(
            f"{folder} holds no image to verify on ({', '.join(sorted(IMAGE_SUFFIXES))})."
        )
    paths.sort(key=lambda path: natural_order(path.name))
    chosen = sorted(np.random.default_rng(seed).permutation(len(paths))[:limit].tolist())
    loaders = [partial(_load_file, paths[position], seed) for position in chosen]
    where: dict[str, JsonValue] = {"data": folder.resolve().name}
    return VerificationSource(tuple(loaders), seed, where if about is None else dict(about))


def frames_of_images(
    images: Mapping[str, Image], *, seed: int = 0, about: Mapping[str, JsonValue] | None = None
) -> VerificationSource:
    """Frames without masks that are in memory already; prompts as in `frames_of_folder`.

    Args:
        images: (H, W), uint8, grey, by name.
        seed: of the prompts; at least 0.
        about: the data, for reports.

    Raises:
        ValueError: if there is no image or the seed is negative.
    """
    _check_draw(None, seed)
    if not images:
        raise BadArgumentError("images must hold at least one frame, got none.")
    loaders = [partial(_drawn_frame, name, image, seed) for name, image in images.items()]
    return VerificationSource(tuple(loaders), seed, dict(about or {}))


def _check_draw(limit: int | None, seed: int) -> None:
    if limit is not None and limit < 1:
        raise BadArgumentError(f"limit must be at least 1, got {limit}.")
    if seed < 0:
        raise BadArgumentError(f"seed must be at least 0, got {seed}.")


def _load_case(case: UltrasoundCase, group: str, count: int, seed: int) -> VerificationFrame:
    targets = read_instances(case)[:count]
    prompts = {
        protocol.name: [
            protocol.prompt(target, case_generator(case.key, instance, seed))
            for instance, target in enumerate(targets)
        ]
        for protocol in STANDARD_PROTOCOLS
    }
    return VerificationFrame(case.key, group, read_image(case), prompts, targets)


def _load_file(path: Path, seed: int) -> VerificationFrame:
    return _drawn_frame(path.name, image_io.read_image(path), seed)


def _drawn_frame(name: str, image: Image, seed: int) -> VerificationFrame:
    """A frame with prompts that depend on its name, its size and the seed alone."""
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
    return VerificationFrame(name, name, image, prompts)
