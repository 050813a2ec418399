"""A bundle's files in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from samus_edge.errors import BundleError
from samus_edge.runtime.manifest import MANIFEST_FILE, Manifest

__all__ = ["FolderFiles"]


@dataclass(frozen=True)
class FolderFiles:
    """See `BundleFiles`.

    Attributes:
        path: the folder.
    """

    path: Path

    def read_manifest(self) -> Manifest:
        """See `BundleFiles.read_manifest`."""
        path = self.path / MANIFEST_FILE
        if path.is_symlink() and not self._is_inside(MANIFEST_FILE):
            raise BundleError(
                f"{path} is a link to a file outside the folder. Copy the file itself there."
            )
        return Manifest.read(path)

    def size_bytes(self, file: str) -> int:
        """See `BundleFiles.size_bytes`."""
        path = self.path / file
        try:
            if not self._is_inside(file):
                raise BundleError(
                    f"{file} leads to a file which is outside the folder, through a link"
                )
            if not path.is_file():
                raise BundleError(f"{file} is missing")
            return path.stat().st_size
        except OSError as err:
            raise BundleError(f"{file} cannot be read ({err.strerror})") from err

    @contextmanager
    def opened(self, file: str) -> Iterator[IO[bytes]]:
        """See `BundleFiles.opened`."""
        try:
            with (self.path / file).open("rb") as stream:
                yield stream
        except OSError as err:
            raise BundleError(f"{file} cannot be read ({err.strerror})") from err

    def _is_inside(self, file: str) -> bool:
        try:
            return (self.path / file).resolve().is_relative_to(self.path.resolve())
        except RuntimeError:  # a loop of links, before Python 3.13
            return False
