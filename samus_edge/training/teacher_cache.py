"""What a teacher said, on disk: asked once, also when the training is interrupted."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from samus_edge.errors import OutputFileError
from samus_edge.runtime.atomic_write import write_files_atomically

FINGERPRINT = "fingerprint"


def fingerprint_of(settings: Mapping[str, Any], *arrays: npt.NDArray[np.generic]) -> str:
    """SHA-256 of settings and arrays, shapes included: 64 hexadecimal digits.

    Args:
        settings: anything that JSON can hold; the order of keys does not matter.
        arrays: what the teacher was shown.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class TeacherCache:
    """Tensors in a folder, one file per image, each with a fingerprint of what it was made from.

    Args:
        folder: created if missing. It may be deleted; what was in it is then made again.

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
