"""One image with its lesions: where its files are, and how they are decoded.

Decoded images and masks on disk: reading them back costs a fraction of decoding PNG files.

For datasets that do not fit into memory. Nothing is held in memory; the operating system keeps what
is read often. Images keep their native pixels, masks take one bit per pixel: a frame of 800 x 600
with one lesion takes 540 kB.

One file per case, named after the paths of its files. It begins with a fingerprint of their sizes
and times, so that a case whose files have changed is decoded again:

| bytes | content |
| --- | --- |
| 4 | ``SEC1`` |
| 32 | SHA-256 of the path, size and modification time of every file, and of the label value |
| 12 | height, width, number of lesions: little-endian unsigned integers |
| H W | image, row by row |
| lesions x ceil(H W / 8) | masks, each packed, first pixel in the highest bit |
"""

import hashlib
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import DataError, ImageFileError
from samus_edge.runtime.images import image_io
from samus_edge.runtime.images.output_files import write_files_atomically

NORMAL_CLASS: Final = "normal"
"""Class of the images without a lesion."""

UNNAMED_CLASS: Final = "lesion"
"""Class of the images of a dataset that names no classes."""

JPEG_SUFFIXES: Final = (".jpg", ".jpeg")
JPEG_THRESHOLD: Final = 127
"""JPEG smears the edges of a mask: grey up to this is background there."""

MAX_LABEL: Final = 15
"""A file whose values lie in 0 to this, several of them above 0, is a label map, not a mask."""

LESIONS: Final = ("files", "parts", "together")
"""What makes a lesion: a mask file, a part of one (touching ones cut apart), or all of an image."""

CORE_DEPTH: Final = 0.7
"""Where touching lesions are cut: each has a core that lies deeper than this share of the deepest
point of both. The neck between two discs is shallower once they overlap by less than a quarter."""

MIN_PART_PX: Final = 16
"""Smaller parts are what a pen or a resampling has left, not lesions."""

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class UltrasoundCase:
    """One image of a dataset with the files of its lesions; nothing is read from disk yet."""

    key: str
    """Class, slash and file stem, such as ``"benign/benign (104)"``; without a class the stem
    alone.
    Unique in the dataset."""
    image_path: Path
    """The image file."""
    mask_paths: tuple[Path, ...]
    """One file per lesion; or, with ``label_value``, the label map alone."""
    label_value: int | None = None
    """What pixels of the lesion hold in the label map; None if any value but black is lesion."""
    dataset: str = ""
    """Name of the dataset, among several."""
    lesions: str = "files"
    """What makes a lesion, one of ``LESIONS``."""

    @property
    def class_name(self) -> str:
        """Class of the image: what stands before the last slash of the key, or
        ``UNNAMED_CLASS``."""
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
        problems: list to which problems are appended, each with the file's path.

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
        elif case.label_value is None and (labels := label_values(values)):
            problems.append(
                f"{path} holds the labels {', '.join(map(str, labels))}, expected a mask with one "
                "value besides 0 (save each lesion as a file of its own, or use US30K's layout "
                "with the number of classes in class.json)"
            )
        elif (mask := mask_of_file(values, path, case.label_value)).any():
            instances += separate_lesions(mask) if case.lesions == "parts" else [mask]
    if case.lesions == "together" and instances:
        instances = [np.logical_or.reduce(instances)]
    return image, instances


def separate_lesions(mask: Mask) -> list[Mask]:
    """The lesions of one mask: its connected parts, each cut where two lesions touch.

    A part with several cores is cut half way between them.

    Args:
        mask: (H, W), not empty.

    Returns:
        (H, W) masks that do not overlap and together cover the mask but for crumbs.
    """
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    found: list[Mask] = []
    for number in range(1, count):
        if stats[number, cv2.CC_STAT_AREA] >= MIN_PART_PX:
            found += _cut(parts == number)
    return found or [mask]


def _cut(part: Mask) -> list[Mask]:
    """A connected part, cut between its cores."""
    depth = cv2.distanceTransform(np.pad(part, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    core = (depth > CORE_DEPTH * depth.max()).astype(np.uint8)
    count, _ = cv2.connectedComponents(core, connectivity=8)
    if count <= 2:
        return [part]
    # each pixel goes to the nearest core
    _, nearest = cv2.distanceTransformWithLabels(
        1 - core, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP
    )
    pieces = [part & (nearest == number) for number in range(1, count)]
    return [piece for piece in pieces if piece.sum() >= MIN_PART_PX]


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


def mask_of_file(values: Image, path: Path, label_value: int | None) -> Mask:
    if label_value is not None:
        return np.asarray(values == label_value)
    return np.asarray(values > (JPEG_THRESHOLD if path.suffix.lower() in JPEG_SUFFIXES else 0))


def label_values(values: Image) -> list[int]:
    """The labels of what can only be a label map; empty for a mask."""
    if values.max(initial=0) > MAX_LABEL:
        return []
    labels = [int(value) for value in np.unique(values) if value > 0]
    return labels if len(labels) > 1 else []


_MAGIC: Final = b"SEC1"
_HEADER: Final = struct.Struct("<4s32s3I")


class CaseCache:
    """Decoded cases in a folder. Several processes may use one folder at the same time.

    Args:
        folder: folder of the files; created if missing. Delete it to free the space.

    Raises:
        DataError: if the folder cannot be created.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise DataError(
                f"The cache folder {self.folder} cannot be created ({err.strerror}). "
                "Give a folder, or a name that is free, where you may write."
            ) from err

    def image(self, case: UltrasoundCase) -> npt.NDArray[np.uint8]:
        """What `read_image` returns: (H, W), uint8, grey 0..255.

        Raises:
            DataError: if the case is broken.
            OutputFileError: if it was not cached and cannot be written.
        """
        with self._open(case) as file:
            height, width, _ = _read_shape(file)
            return _read_bytes(file, height * width).reshape(height, width)

    def instances(self, case: UltrasoundCase) -> list[npt.NDArray[np.bool_]]:
        """What `read_instances` returns: (H, W), bool, of each lesion.

        Raises:
            DataError: if the case is broken.
            OutputFileError: if it was not cached and cannot be written.
        """
        with self._open(case) as file:
            height, width, count = _read_shape(file)
            file.seek(height * width, 1)
            packed = _read_bytes(file, count * _packed_bytes(height, width))
        rows = packed.reshape(count, _packed_bytes(height, width))
        masks = np.unpackbits(rows, axis=1, count=height * width)
        return list(masks.reshape(count, height, width).view(np.bool_))

    def fill(
        self,
        cases: Iterable[UltrasoundCase],
        on_case: Callable[[UltrasoundCase], object] = lambda case: None,
    ) -> int:
        """Decode every case that is not cached yet, so that a run need not wait for it.

        Args:
            cases: the cases.
            on_case: called with each case that is there.

        Returns:
            How many cases were decoded.

        Raises:
            DataError: if cases are broken; all are named, and the others are cached.
            OutputFileError: if a case cannot be written.
        """
        problems: list[str] = []
        decoded = 0
        for case in cases:
            found, wrong = self._ensure(case)
            problems += wrong
            decoded += not found and not wrong
            on_case(case)
        if problems:
            raise DataError(list_problems("The dataset has broken files", dict.fromkeys(problems)))
        return decoded

    def path(self, case: UltrasoundCase) -> Path:
        """The file of a case, whether it exists or not."""
        files = (case.image_path, *case.mask_paths)
        name = "\0".join([*(str(path.absolute()) for path in files), str(case.label_value)])
        if case.lesions != "files":
            name += f"\0{case.lesions}"
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
        return self.folder / f"{digest}.case"

    def _open(self, case: UltrasoundCase) -> BufferedReader:
        """The file of a case, made where it is missing or outdated."""
        _, problems = self._ensure(case)
        if problems:
            raise DataError(list_problems(f"Case '{case.key}' is broken", problems))
        return self.path(case).open("rb")

    def _ensure(self, case: UltrasoundCase) -> tuple[bool, list[str]]:
        """Make the file of a case if need be: whether it was there, and what is wrong."""
        problems: list[str] = []
        fingerprint = _fingerprint(case, problems)  # before the files are read
        if problems or self._is_cached(case, fingerprint):
            return not problems, problems
        image, instances = decode_case(case, problems)
        if problems or image is None:
            return False, problems
        header = _HEADER.pack(_MAGIC, fingerprint, *image.shape, len(instances))
        masks = b"".join(np.packbits(mask).tobytes() for mask in instances)
        write_files_atomically({self.path(case): header + image.tobytes() + masks})
        return False, []

    def _is_cached(self, case: UltrasoundCase, fingerprint: bytes) -> bool:
        """Whether the file is there, made from the files as they are, and as long as it says."""
        path = self.path(case)
        try:
            with path.open("rb") as file:
                header = file.read(_HEADER.size)
            size = path.stat().st_size
        except FileNotFoundError:
            return False
        if len(header) < _HEADER.size:
            return False
        magic, stored, height, width, count = _HEADER.unpack(header)
        whole = _HEADER.size + height * width + count * _packed_bytes(height, width)
        return bool(magic == _MAGIC and stored == fingerprint and size == whole)


def _fingerprint(case: UltrasoundCase, problems: list[str]) -> bytes:
    """SHA-256 of the state of a case's files; missing ones are added to the problems."""
    state = hashlib.sha256(str(case.label_value).encode())
    for path in (case.image_path, *case.mask_paths):
        try:
            status = path.stat()
        except OSError as err:
            problems.append(f"{path} cannot be read ({err.strerror})")
        else:
            text = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0"
            state.update(text.encode(errors="surrogateescape"))
    return state.digest()


def _read_shape(file: BufferedReader) -> tuple[int, int, int]:
    """Height, width and number of lesions; the file stands at the image afterwards."""
    _, _, height, width, count = _HEADER.unpack(file.read(_HEADER.size))
    return height, width, count


def _read_bytes(file: BufferedReader, count: int) -> npt.NDArray[np.uint8]:
    return np.fromfile(file, np.uint8, count)


def _packed_bytes(height: int, width: int) -> int:
    return (height * width + 7) // 8


class CaseSource(Protocol):
    """Decoded images and masks of cases; `samus_edge.data.case.CaseCache` is one on disk."""

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
