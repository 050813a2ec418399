"""A bundle's files in a zip file, read without unpacking anything to the disk."""

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from samus_edge.errors import BundleError
from samus_edge.runtime.bundle.bundle_files import is_safe_path
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES

_ZIP_AGAIN = "Zip the bundle's folder again: zip -r bundle.zip FOLDER"
# The others need far more memory or time to unpack, and not every Python has them.
_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1
# A directory of this size has room for some 80,000 files.
_MAX_DIRECTORY_BYTES = 4 << 20
# Trained weights hardly get smaller. Zeros do, by up to 1032, and are refused where it matters.
_MAX_RATIO = 200
_HARMLESS_BYTES = 64 << 20
# What the zipfile module raises for files that are not as they should be.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)


def is_zip_file(path: Path) -> bool:
    """Whether a path is a regular file with a zip file's end; one that was cut off has none."""
    return path.is_file() and zipfile.is_zipfile(path)


@dataclass(frozen=True)
class ZipFiles:
    """Files of a bundle that is a zip file: at its top or in its one folder with a manifest."""

    path: Path

    def read_manifest(self) -> bytes:
        """See `BundleFiles.read_manifest`."""
        try:
            size_bytes = self.size_bytes(MANIFEST_FILE)
            if size_bytes > MAX_MANIFEST_BYTES:
                raise BundleError(
                    f"{MANIFEST_FILE} has {size_bytes} bytes, at most {MAX_MANIFEST_BYTES} expected"
                )
            with self.opened(MANIFEST_FILE) as stream:
                return stream.read(MAX_MANIFEST_BYTES + 1)
        except BundleError as err:
            raise BundleError(f"bundle {self.path}: {err}. {_ZIP_AGAIN}") from err

    def names(self) -> list[str]:
        """See `BundleFiles.names`."""
        with self._entry(MANIFEST_FILE) as (archive, _):
            entries = _entries_by_name(archive)
        return [name.removeprefix(_root(entries)) for name in entries if not name.endswith("/")]

    def size_bytes(self, file: str) -> int:
        """See `BundleFiles.size_bytes`."""
        with self._entry(file) as (_, entry):
            return entry.file_size

    @contextmanager
    def opened(self, file: str) -> Iterator[IO[bytes]]:
        """See `BundleFiles.opened`."""
        with self._entry(file) as (archive, entry), archive.open(entry) as stream:
            yield stream

    @contextmanager
    def _entry(self, file: str) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
        """The archive and one of its files, both checked anew: it may be another archive by now."""
        try:
            with _DirectoryReader(self.path) as stream, zipfile.ZipFile(stream) as archive:
                stream.is_directory_read = True
                entries = _entries_by_name(archive)
                entry = entries.get(_root(entries) + file)
                if entry is None:
                    raise BundleError(f"{file} is missing")
                _check_entry(entry, file)
                yield archive, entry
        except _UNREADABLE as err:
            raise BundleError(f"{file} cannot be read ({err})") from err


class _DirectoryReader(io.BufferedReader):
    """A file of which, until its directory was read, only small parts can be read at a time.

    The zipfile module reads the whole directory at once, which may be all of a large file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(path))
        self.is_directory_read = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_directory_read:
            return super().read(size)
        asked = _MAX_DIRECTORY_BYTES + 1 if size is None or size < 0 else size
        if asked > _MAX_DIRECTORY_BYTES + 1:
            raise BundleError(
                f"the zip file's directory has {asked} bytes, at most {_MAX_DIRECTORY_BYTES} "
                "expected"
            )
        return super().read(asked)


def _entries_by_name(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """All that is in an archive.

    Raises:
        BundleError: if a path could leave the folder that the archive is unpacked to, or is there
            twice, so that tools would disagree about what is in it.
    """
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.orig_filename  # `filename` is cut where it has a NUL
        if not is_safe_path(name.removesuffix("/")):
            raise BundleError(
                f"the zip file holds {name[:100]!r}, and paths must be relative, with forward "
                "slashes and without '..'"
            )
        if name in entries:
            raise BundleError(f"the zip file holds {name!r} twice")
        entries[name] = entry
    return entries


def _root(entries: dict[str, zipfile.ZipInfo]) -> str:
    """What the paths of the bundle's files begin with: nothing, or one folder and a slash."""
    if MANIFEST_FILE in entries:
        return ""
    suffix = f"/{MANIFEST_FILE}"
    roots = [name.removesuffix(MANIFEST_FILE) for name in entries if name.endswith(suffix)]
    roots = [root for root in roots if root.count("/") == 1]
    if len(roots) > 1:
        raise BundleError(
            f"the zip file holds {len(roots)} bundles, in {', '.join(sorted(roots)[:5])}; one "
            "expected"
        )
    if not roots:
        raise BundleError(
            f"the zip file has no {MANIFEST_FILE}, neither at its top nor in one folder there"
        )
    return roots[0]


def _check_entry(entry: zipfile.ZipInfo, file: str) -> None:
    if entry.flag_bits & _ENCRYPTED:
        raise BundleError(f"{file} is encrypted, and only files without a password are read")
    if entry.compress_type not in _COMPRESSIONS:
        raise BundleError(
            f"{file} is compressed by method {entry.compress_type}, and only store (0) and "
            "deflate (8) are read"
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise BundleError(f"{file} is a link, and only files are read")
    if entry.file_size > max(_HARMLESS_BYTES, _MAX_RATIO * entry.compress_size):
        raise BundleError(
            f"{file} would unpack from {entry.compress_size} to {entry.file_size} bytes, at most "
            f"{_MAX_RATIO} times as much expected"
        )
