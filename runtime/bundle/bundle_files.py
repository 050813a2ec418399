"""A bundle's files: where they are read from, and the check of one against its record."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from samus_edge.errors import BundleError
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE, FileRecord, read_manifest_file


@dataclass(frozen=True)
class FolderFiles:
    """Files of a bundle that is a folder; see `BundleFiles`."""

    path: Path

    def read_manifest(self) -> bytes:
        """See `BundleFiles.read_manifest`."""
        path = self.path / MANIFEST_FILE
        if path.is_symlink() and not self._is_inside(MANIFEST_FILE):
            raise BundleError(
                f"{path} is a link to a file outside the folder. Copy the file itself there."
            )
        return read_manifest_file(path)

    def names(self) -> list[str]:
        """See `BundleFiles.names`."""
        paths = sorted(self.path.rglob("*"))
        links = [path for path in paths if path.is_symlink()]
        if links:
            raise BundleError(f"{links[0]} is a link, and a signed bundle holds files alone")
        return [path.relative_to(self.path).as_posix() for path in paths if not path.is_dir()]

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


MAX_PATH_CHARACTERS = 255

# Backslashes divide paths and colons name drives and streams on Windows; the rest of these Windows
# refuses in names, so that no bundle of ours can need them. ONNX Runtime takes "*/..." as an
# address in memory. A lone surrogate cannot be encoded.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|\ud800-\udfff]')


def is_safe_path(path: str) -> bool:
    """Whether a path is relative, plain and cannot leave the folder that it is relative to.

    Links are not looked at: what a path leads to is a matter of the disk.

    Args:
        path: A path with forward slashes.
    """
    return (
        len(path) <= MAX_PATH_CHARACTERS
        and not _FORBIDDEN.search(path)
        # An empty first part is that of an absolute path.
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )


_CHUNK_BYTES = 1 << 20


class BundleFiles(Protocol):
    """Where a bundle's files are: a folder or a zip file."""

    @property
    def path(self) -> Path:
        """The folder or the zip file."""
        ...

    def read_manifest(self) -> bytes:
        """Content of the manifest, for `Manifest.from_bytes`.

        Raises:
            BundleError: if it is missing or unreadable.
        """
        ...

    def names(self) -> list[str]:
        """Every file there is, whether the manifest lists it or not, by its path in the bundle.

        Raises:
            BundleError: if one is a link, or they cannot be listed.
        """
        ...

    def size_bytes(self, file: str) -> int:
        """Size of a file as the disk or the zip's directory states it, before anything is read.

        Raises:
            BundleError: if the file is missing, outside the bundle or of a kind that is not read;
                the message begins with the file.
        """
        ...

    def opened(self, file: str) -> AbstractContextManager[IO[bytes]]:
        """A file of which `size_bytes` was asked, opened to be read once.

        Raises:
            BundleError: if it cannot be read, also where that shows only while reading.
        """
        ...


def read_file(files: BundleFiles, record: FileRecord) -> bytes:
    """Read a file and check it; never more than its record says is read.

    Raises:
        BundleError: if it is missing, unreadable or differs from its record; the message begins
            with the file and says what was expected.
    """
    _check_size(record, files.size_bytes(record.file))
    with files.opened(record.file) as stream:
        content = stream.read(record.size_bytes + 1)
    _check_size(record, len(content))
    _check_sha256(record, hashlib.sha256(content).hexdigest())
    return content


def check_file(files: BundleFiles, record: FileRecord) -> None:
    """Check a file of any size in little memory.

    Raises:
        BundleError: as `read_file`.
    """
    _check_size(record, files.size_bytes(record.file))
    digest = hashlib.sha256()
    left = record.size_bytes + 1
    with files.opened(record.file) as stream:
        while left and (chunk := stream.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    _check_size(record, record.size_bytes + 1 - left)
    _check_sha256(record, digest.hexdigest())


def sha256_of(files: BundleFiles, file: str) -> str:
    """SHA-256 of a file that no record says anything of.

    Raises:
        BundleError: as `BundleFiles.size_bytes` and `BundleFiles.opened`.
    """
    files.size_bytes(file)
    digest = hashlib.sha256()
    with files.opened(file) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_size(record: FileRecord, size_bytes: int) -> None:
    if size_bytes != record.size_bytes:
        raise BundleError(f"{record.file} has {size_bytes} bytes, expected {record.size_bytes}")


def _check_sha256(record: FileRecord, sha256: str) -> None:
    if sha256 != record.sha256:
        raise BundleError(f"{record.file} has SHA-256 {sha256}, expected {record.sha256}")
