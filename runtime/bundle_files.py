"""What a bundle's files are read through, and the check of one file against its record."""

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from samus_edge.errors import BundleError
from samus_edge.runtime.file_record import FileRecord
from samus_edge.runtime.graph_record import GraphRecord
from samus_edge.runtime.manifest import Manifest

__all__ = ["BundleFiles", "check_file", "read_file"]

_CHUNK_BYTES = 1 << 20


class BundleFiles(Protocol):
    """Where a bundle's files are: a folder or a zip file."""

    @property
    def path(self) -> Path:
        """The folder or the zip file."""
        ...

    def read_manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            BundleError: if it is missing or unreadable, or as `Manifest.from_bytes`.
        """
        ...

    def size_bytes(self, file: str) -> int:
        """Size of a file as the disk or the zip's directory states it, before anything is read.

        Raises:
            BundleError: if the file is missing, outside the bundle or of a kind that is not read; the
                message begins with the file.
        """
        ...

    def opened(self, file: str) -> AbstractContextManager[IO[bytes]]:
        """A file of which `size_bytes` was asked, opened to be read once.

        Raises:
            BundleError: if it cannot be read, also where that shows only while reading.
        """
        ...


def read_file(files: BundleFiles, record: GraphRecord | FileRecord) -> bytes:
    """Read a file and check it; never more than its record says is read.

    Raises:
        BundleError: if it is missing, unreadable or differs from its record; the message begins with
            the file and says what was expected.
    """
    _check_size(record, files.size_bytes(record.file))
    with files.opened(record.file) as stream:
        content = stream.read(record.size_bytes + 1)
    _check_size(record, len(content))
    _check_sha256(record, hashlib.sha256(content).hexdigest())
    return content


def check_file(files: BundleFiles, record: GraphRecord | FileRecord) -> None:
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


def _check_size(record: GraphRecord | FileRecord, size_bytes: int) -> None:
    if size_bytes != record.size_bytes:
        raise BundleError(f"{record.file} has {size_bytes} bytes, expected {record.size_bytes}")


def _check_sha256(record: GraphRecord | FileRecord, sha256: str) -> None:
    if sha256 != record.sha256:
        raise BundleError(f"{record.file} has SHA-256 {sha256}, expected {record.sha256}")
