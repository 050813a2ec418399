"""A finished folder put where it belongs, in one step where the system can."""

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["put_in_place"]

# From linux/fcntl.h and linux/fs.h.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def put_in_place(draft: Path, folder: Path) -> None:
    """Move a finished folder to its place.

    What was there is found where the draft was, or beside it, for the caller to remove. At no moment
    is there neither the old nor the new, where the file system can exchange folders (on Linux most
    can); elsewhere the old one is moved aside first, and back if the new one cannot be moved.

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
