"""Where built engines are kept."""

import os
import sys
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "default_cache_folder"]

CACHE_VARIABLE = "SAMUS_EDGE_CACHE"
"""The environment variable that names another folder."""


def default_cache_folder() -> Path:
    """`$SAMUS_EDGE_CACHE`, or a folder among the user's caches; need not exist."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "samus-edge" / "engines"
