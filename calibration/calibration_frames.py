"""The real frames that ranges and sensitivities are measured on, drawn by seed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.errors import DataError
from samus_edge.evaluation.prompt import Prompt
from samus_edge.evaluation.prompt_protocol import STANDARD_PROTOCOLS, case_generator
from samus_edge.runtime.grey_frame import grey_frame
from samus_edge.runtime.image_io import read_image as read_image_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


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


def frames_of_folder(folder: Path, count: int, seed: int) -> list[CalibrationFrame]:
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
        raise ValueError(f"count must be at least 1, got {count}.")
    return [int(index) for index in np.random.default_rng(seed).permutation(available)]


def _random_prompts(width: int, height: int, rng: np.random.Generator) -> tuple[Prompt, ...]:
    """A box, and the point at its centre."""
    last = np.array([width - 1, height - 1])
    corner = rng.uniform(0.1, 0.4, size=2) * last
    opposite = corner + rng.uniform(0.2, 0.5, size=2) * last
    box = np.concatenate((corner, opposite)).astype(np.float32)
    point = ((corner + opposite) / 2).astype(np.float32)
    return Prompt(box=box), Prompt(points=point[None])
