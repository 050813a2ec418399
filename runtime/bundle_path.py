"""Which paths a bundle may name: those that stay in its folder on every system."""

import re

__all__ = ["MAX_PATH_CHARACTERS", "is_safe_path"]

MAX_PATH_CHARACTERS = 255

# Backslashes divide paths and colons name drives and streams on Windows; the rest of these Windows
# refuses in names, so that no bundle of ours can need them. ONNX Runtime takes "*/..." as an address
# in memory. A lone surrogate cannot be encoded.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|\ud800-\udfff]')


def is_safe_path(path: str) -> bool:
    """Whether a path is relative, plain and cannot leave the folder that it is relative to.

    Links are not looked at: what a path leads to is a matter of the disk.

    Args:
        path: with forward slashes.
    """
    return (
        len(path) <= MAX_PATH_CHARACTERS
        and not _FORBIDDEN.search(path)
        # An empty first part is that of an absolute path.
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )
