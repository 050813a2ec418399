"""One image with its lesions: where its files are, and how they are decoded."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.errors import DataError, ImageFileError
from samus_edge.runtime import image_io

__all__ = [
    "NORMAL_CLASS",
    "UNNAMED_CLASS",
    "UltrasoundCase",
    "decode_case",
    "list_problems",
    "natural_order",
    "read_image",
    "read_instances",
    "select_lesions",
]

NORMAL_CLASS: Final = "normal"
"""Class of the images without a lesion."""

UNNAMED_CLASS: Final = "lesion"
"""Class of the images of a dataset that names no classes."""

JPEG_SUFFIXES: Final = (".jpg", ".jpeg")
JPEG_THRESHOLD: Final = 127
"""JPEG smears the edges of a mask: grey up to this is background there."""

MAX_LABEL: Final = 15
"""A file whose values lie in 0 to this, several of them above 0, is a label map, not a mask."""

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class UltrasoundCase:
    """One image of a dataset with the files of its lesions; nothing is read from disk yet."""

    key: str
    """Class, slash and file stem, such as ``"benign/benign (104)"``; without a class the stem alone.
    Unique in the dataset."""
    image_path: Path
    """The image file."""
    mask_paths: tuple[Path, ...]
    """One file per lesion; or, with ``label_value``, the label map alone."""
    label_value: int | None = None
    """What pixels of the lesion hold in the label map; None if any value but black is lesion."""

    @property
    def class_name(self) -> str:
        """Class of the image: what stands before the last slash of the key, or ``UNNAMED_CLASS``."""
        return self.key.rpartition("/")[0] or UNNAMED_CLASS


def select_lesions(cases: Iterable[UltrasoundCase]) -> list[UltrasoundCase]:
    """Keep the cases that show a lesion: every class but ``"normal"``, in the order given."""
    return [case for case in cases if case.class_name != NORMAL_CLASS]


def read_image(case: UltrasoundCase) -> Image:
    """Decode the image of a case.

    The runtime's reader decodes it, so training and evaluation see what `samus-edge infer` sees:
    colour (coloured callipers on a grey image) becomes grey with OpenCV's weights
    (0.299 R + 0.587 G + 0.114 B), transparent pixels are laid over black.

    Returns:
        (H, W) grey image at its own size, 0..255.

    Raises:
        DataError: If the file is missing or cannot be decoded.
    """
    return _read_grey(case.image_path)


def read_instances(case: UltrasoundCase) -> list[Mask]:
    """Decode the lesions of a case: one mask per mask file, also where it has several parts.

    A pixel belongs to the lesion if it is neither black nor fully transparent; in a JPEG, which has
    no exact values, if it is brighter than `JPEG_THRESHOLD`; in a label map, if it holds the case's
    value. Empty masks, such as those of normal images, contribute nothing.

    Returns:
        (H, W) masks at the size of the image, in the order of ``case.mask_paths``.

    Raises:
        DataError: If the image or a mask is missing or cannot be decoded, if a mask's size differs
            from the image's, or if a mask is a label map but the case names no value. All such
            files are named in one error.
    """
    problems: list[str] = []
    _, instances = decode_case(case, problems)
    if problems:
        raise DataError(list_problems(f"Case '{case.key}' is broken", problems))
    return instances


def decode_case(case: UltrasoundCase, problems: list[str]) -> tuple[Image | None, list[Mask]]:
    """Decode all files of a case once, going on after broken ones.

    Args:
        case: the case.
        problems: what is wrong is appended to it, each with the file's path.

    Returns:
        The image (None if broken) and the masks that are neither empty nor broken.
    """
    image: Image | None = None
    try:
        image = read_image(case)
    except DataError as err:
        problems.append(str(err))
    instances: list[Mask] = []
    for path in case.mask_paths:
        try:
            values = _read_grey(path)
        except DataError as err:
            problems.append(str(err))
            continue
        if image is not None and values.shape != image.shape:
            problems.append(
                f"{path} is {values.shape[1]}x{values.shape[0]} pixels, but its image "
                f"{case.image_path} is {image.shape[1]}x{image.shape[0]}"
            )
        elif case.label_value is None and (labels := _labels(values)):
            problems.append(
                f"{path} holds the labels {', '.join(map(str, labels))}, expected a mask with one "
                "value besides 0 (save each lesion as a file of its own, or use US30K's layout "
                "with the number of classes in class.json)"
            )
        elif (mask := _mask(values, path, case.label_value)).any():
            instances.append(mask)
    return image, instances


def natural_order(key: str) -> list[tuple[int, str]]:
    """Sort key that puts ``benign (9)`` before ``benign (10)``."""
    # isdecimal, not isdigit: int() does not take a superscript two
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", key)]


def list_problems(summary: str, problems: Iterable[str]) -> str:
    """One message that names everything that is wrong."""
    return f"{summary}: " + "; ".join(problem.rstrip(".") for problem in problems) + "."


def _read_grey(path: Path) -> Image:
    """Decode a file to grey (H, W) as the runtime does."""
    try:
        return image_io.read_image(path)
    except ImageFileError as err:
        raise DataError(str(err)) from err


def _mask(values: Image, path: Path, label_value: int | None) -> Mask:
    if label_value is not None:
        return np.asarray(values == label_value)
    return np.asarray(values > (JPEG_THRESHOLD if path.suffix.lower() in JPEG_SUFFIXES else 0))


def _labels(values: Image) -> list[int]:
    """The labels of what can only be a label map; empty for a mask."""
    if values.max(initial=0) > MAX_LABEL:
        return []
    labels = [int(value) for value in np.unique(values) if value > 0]
    return labels if len(labels) > 1 else []
