"""Files that appear whole under their final name, or not at all."""

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from samus_edge.errors import OutputFileError

__all__ = ["write_files_atomically"]


def write_files_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write several files so that none is ever seen half-written under its final name.

    Every content first goes, fsync included, to a temporary file in the folder of its target (a
    rename is atomic only within one file system); only when all of them are complete are they
    renamed. A failure before that leaves nothing behind and existing files as they were. A target
    that is a symbolic link keeps being one: the file it points to is replaced.

    Args:
        contents: bytes of each file by its path; folders must exist.

    Raises:
        OutputFileError: if a file cannot be written; names it and the reason.
    """
    staged: list[tuple[Path, Path]] = []
    current = Path()
    try:
        for path, content in contents.items():
            current = path
            target = Path(os.path.realpath(path))
            temporary = target.with_name(f".samus-edge-{secrets.token_hex(8)}.tmp")
            staged.append((temporary, target))
            _write_and_sync(temporary, content)
        for temporary, target in staged:
            current = target
            os.replace(temporary, target)
    except OSError as err:
        raise OutputFileError(
            f"{current} cannot be written ({err.strerror or err}). "
            "Give a file in an existing, writable folder with enough free space."
        ) from err
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    for folder in {target.parent for _, target in staged}:
        _sync_folder(folder)


def _write_and_sync(path: Path, content: bytes) -> None:
    # O_EXCL: never follow or reuse what somebody else put there; 0o666 lets the umask decide.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the renames durable; not every file system can, and the files are complete anyway."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
