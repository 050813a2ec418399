"""Whether there is an NVIDIA driver, without loading anything large."""

import ctypes
import sys

__all__ = ["has_nvidia_driver"]


def has_nvidia_driver() -> bool:
    """Whether the driver's library is there; whether it has a GPU to drive is another question."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
