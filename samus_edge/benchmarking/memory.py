"""How much memory this process holds."""

import os
from pathlib import Path

__all__ = ["resident_bytes"]

_PAGES = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the operating system does not say."""
    try:
        return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
