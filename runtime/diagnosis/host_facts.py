"""What this machine is: operating system, CPU, memory, installed packages."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["PACKAGES", "cpu_features", "cpu_model", "memory_bytes", "package_versions"]

PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "opencv-python",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "pycuda",
    "torch",
    "onnx",
    "pydicom",
    "highdicom",
    "fastapi",
)
"""Whose versions matter, by their names on the package index."""

# By the name that Linux gives them; what makes products of matrices fast.
_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


def cpu_model(root: Path = Path("/")) -> str:
    """The processor, in the words of the operating system."""
    text = _cpuinfo(root)
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_features(root: Path = Path("/")) -> tuple[str, ...]:
    """Which instruction sets for products of matrices it has; empty where Linux does not say."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(root), re.MULTILINE)
    present = set(found[1].split()) if found else set()
    return tuple(name for name in _FEATURES if name in present)


def memory_bytes() -> int | None:
    """Of the whole machine; None where the operating system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def package_versions() -> dict[str, str | None]:
    """The installed version of each of `PACKAGES`, or None."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _cpuinfo(root: Path) -> str:
    try:
        return (root / "proc" / "cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
