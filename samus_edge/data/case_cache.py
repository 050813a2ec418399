"""Decoded images and masks on disk: reading them back costs a fraction of decoding PNG files.

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
import struct
from collections.abc import Callable, Iterable
from io import BufferedReader
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, decode_case, list_problems
from samus_edge.errors import DataError
from samus_edge.runtime.atomic_write import write_files_atomically

__all__ = ["CaseCache"]

_MAGIC: Final = b"SEC1"
_HEADER: Final = struct.Struct("<4s32s3I")


class CaseCache:
    """Decoded cases in a folder. Several processes may use one folder at the same time.

    Args:
        folder: where the files go; created if missing. Delete it to free the space.

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
        """Decode every case that is not cached yet, before a run that shall not wait for it.

        Args:
            cases: the cases.
            on_case: told each case when it is there.

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
