"""A lock between processes, by a file."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from samus_edge.errors import BackendError

__all__ = ["process_lock"]

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def process_lock(
    path: Path, *, timeout_seconds: float, on_wait: Callable[[], None] = lambda: None
) -> Iterator[bool]:
    """Hold a lock that at most one process holds at a time; it ends with the process.

    Args:
        path: of the lock's file; made if it is not there, and left there.
        timeout_seconds: how long to wait for another process.
        on_wait: called once if the lock is held by another process.

    Yields:
        Whether there is a lock: False where the file cannot be made or the file system has no locks;
        two processes may then do the same work, and both do it right.

    Raises:
        BackendError: if another process holds it for longer.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # a read-only folder, say
        yield False
        return
    try:
        yield _acquire(descriptor, path, timeout_seconds, on_wait)
    finally:
        os.close(descriptor)  # which releases it


def _acquire(
    descriptor: int, path: Path, timeout_seconds: float, on_wait: Callable[[], None]
) -> bool:
    deadline = time.monotonic() + timeout_seconds
    has_waited = False
    while True:
        try:
            _lock(descriptor)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BackendError(
                    f"another process has been building this engine for {timeout_seconds:.0f} seconds. "
                    f"Wait for it, or end it; who it is: fuser {path}"
                ) from None
        except OSError:  # the file system has no locks
            return False
        if not has_waited:
            has_waited = True
            on_wait()
        time.sleep(_POLL_SECONDS)


if os.name == "nt":

    def _lock(descriptor: int) -> None:
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except PermissionError as err:
            raise BlockingIOError from err

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
