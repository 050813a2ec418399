"""Files that appear whole under their final name, or not at all."""

import contextlib
import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from samus_edge.errors import BadArgumentError, OutputFileError, SamusEdgeError

_CHUNK_BYTES = 1 << 20


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in chunks so that its size does not matter.

    Args:
        path: an existing regular file.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        OSError: if the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# A mask is exact; JPEG would smear its edges.
MASK_SUFFIXES = (".png",)
OVERLAY_SUFFIXES = (".png", ".jpg", ".jpeg")
DICOM_SUFFIXES = (".dcm",)


def check_output_paths(
    image: Path,
    mask: Path | None = None,
    overlay: Path | None = None,
    dicom_seg: Path | None = None,
    dicom_sr: Path | None = None,
) -> None:
    """Refuse output paths that could not be written, or that would overwrite the input.

    Args:
        image: the input image.
        mask: where the mask goes; None if nowhere.
        overlay: where the overlay goes; None if nowhere.
        dicom_seg: where the DICOM segmentation goes; None if nowhere.
        dicom_sr: where the DICOM report goes; None if nowhere.

    Raises:
        BadArgumentError: if a suffix is not of a supported format, or two of the paths are one
            file.
        OutputFileError: if a path is a folder, or its folder is missing or not writable.
    """
    outputs = (
        ("mask", mask, MASK_SUFFIXES),
        ("overlay", overlay, OVERLAY_SUFFIXES),
        ("DICOM segmentation", dicom_seg, DICOM_SUFFIXES),
        ("DICOM report", dicom_sr, DICOM_SUFFIXES),
    )
    given: list[tuple[str, Path]] = []
    for kind, path, suffixes in outputs:
        if path is None:
            continue
        check_output(path, kind, suffixes, image)
        for other_kind, other in given:
            if _is_same_file(other, path):
                raise BadArgumentError(
                    f"{other_kind} and {kind} are the same file, {path}. Give two different files."
                )
        given.append((kind, path))


def check_output(path: Path, kind: str, suffixes: tuple[str, ...], image: Path) -> None:
    """Refuse one output path.

    Args:
        path: where something goes.
        kind: what, for messages.
        suffixes: one of which it must have.
        image: the input.

    Raises:
        ValueError, OutputFileError: as `check_output_paths`.
    """
    if path.suffix.lower() not in suffixes:
        raise BadArgumentError(
            f"the {kind} must be a file ending in {' or '.join(suffixes)}, got {path}."
        )
    if _is_same_file(path, image):
        raise BadArgumentError(
            f"the {kind} would overwrite the input image {image}. Give another file."
        )
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise OutputFileError(f"the {kind} {path} is a folder. Give a file in it.")
    if not folder.is_dir():
        raise OutputFileError(f"the {kind} {path} is in a folder that does not exist. Create it.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputFileError(f"the {kind} {path} is in a folder that you may not write to.")


def _is_same_file(first: Path, second: Path) -> bool:
    """Also true for links to one file, and for names that differ only where it does not matter."""
    try:
        return first.samefile(second)
    except OSError:  # one of them does not exist
        return os.path.realpath(first) == os.path.realpath(second)


def write_files_atomically(contents: Mapping[Path, bytes], drafts: Path | None = None) -> None:
    """Write several files so that none is ever seen half-written under its final name.

    Every content first goes, fsync included, to a temporary file in the folder of its target (a
    rename is atomic only within one file system); only when all of them are complete are they
    renamed. A failure before that leaves nothing behind and existing files as they were. A target
    that is a symbolic link keeps being one: the file it points to is replaced.

    Args:
        contents: bytes of each file by its path; folders must exist.
        drafts: a folder of the same file system for the temporary files, of a job that clears it
            after it was killed; None for the folder of each file.

    Raises:
        OutputFileError: if a file cannot be written; names it and the reason.
    """
    staged: list[tuple[Path, Path]] = []
    current = Path()
    try:
        for path, content in contents.items():
            current = path
            target = Path(os.path.realpath(path))
            name = f".samus-edge-{secrets.token_hex(8)}.tmp"
            temporary = target.with_name(name) if drafts is None else drafts / name
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


@contextlib.contextmanager
def draft_folder(folder: Path, *, kind: str, marker: str, overwrite: bool) -> Iterator[Path]:
    """An empty folder to fill, which is put in place when the block ends without an error.

    Args:
        folder: where it goes; missing parents are made.
        kind: what it is, with an article, for messages.
        marker: a file that every such folder has; a folder without it is never replaced.
        overwrite: whether an existing folder of this kind is replaced.

    Raises:
        SamusEdgeError: if ``folder`` exists and is not to be overwritten, or is something else.
    """
    if folder.exists():
        if not overwrite:
            raise SamusEdgeError(
                f"{folder} exists. Give another folder, or --overwrite to replace it."
            )
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / marker).is_file()):
            raise SamusEdgeError(
                f"{folder} is not {kind} and is not replaced: it has no {marker}. "
                "Give another folder."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        draft = Path(temporary) / "draft"
        draft.mkdir(mode=0o755)
        yield draft
        put_in_place(draft, folder)


# From linux/fcntl.h and linux/fs.h.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def put_in_place(draft: Path, folder: Path) -> None:
    """Move a finished folder to its place.

    What was there is found where the draft was, or beside it, for the caller to remove. At no
    moment is there neither the old nor the new, where the file system can exchange folders (on
    Linux most can); elsewhere the old one is moved aside first, and back if the new one cannot be
    moved.

    Args:
        draft: a finished folder, alone in its parent, on the file system of ``folder``.
        folder: where it goes.

    Raises:
        OSError: if it cannot be moved; what was there is left.
    """
    if not folder.exists():
        draft.replace(folder)
    elif not _exchange(draft, folder):
        _replace_in_two_steps(draft, folder)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places; False where the system cannot."""
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28 and newer
    if renameat2 is None:
        return False
    paths = (os.fsencode(first), os.fsencode(second))
    status = renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(status == 0)


def _replace_in_two_steps(draft: Path, folder: Path) -> None:
    replaced = draft.with_name("replaced")
    folder.replace(replaced)
    try:
        draft.replace(folder)
    except OSError:
        replaced.replace(folder)
        raise
