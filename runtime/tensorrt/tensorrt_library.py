"""Finding TensorRT: one Python API under two names."""

import importlib
import importlib.util
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Final

from samus_edge.errors import BackendError

__all__ = ["TENSORRT_FLAVOURS", "TensorRTLibrary", "find_tensorrt", "installed_flavour"]

TENSORRT_FLAVOURS = ("tensorrt", "tensorrt_rtx")

_TITLES: Final = MappingProxyType({"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"})
_HOW_TO_INSTALL: Final = MappingProxyType(
    {
        "tensorrt": (
            "On a Jetson it comes with JetPack (create the virtual environment with "
            "--system-site-packages); elsewhere: pip install tensorrt"
        ),
        "tensorrt_rtx": "pip install 'samus-edge[tensorrt-rtx]'",
    }
)
# Of `tensorrt`: the first with strongly typed networks, progress monitors and 64-bit integers, all
# of which the build needs. TensorRT-RTX has had them from its first version.
_OLDEST_MAJOR: Final = MappingProxyType({"tensorrt": 10, "tensorrt_rtx": 1})


@dataclass(frozen=True)
class TensorRTLibrary:
    """An imported TensorRT.

    Attributes:
        module: the Python module.
        flavour: its name, "tensorrt" or "tensorrt_rtx"; their engines are not exchangeable.
        version: for example "1.7.1.116".
    """

    module: ModuleType
    flavour: str
    version: str

    def __str__(self) -> str:
        return f"{_TITLES[self.flavour]} {self.version}"


def find_tensorrt(flavour: str = "auto") -> TensorRTLibrary:
    """Import TensorRT.

    Args:
        flavour: one of `TENSORRT_FLAVOURS`; or "auto", the first of them that is installed.

    Raises:
        ValueError: if the flavour is unknown.
        BackendError: if it is not installed, cannot be loaded or is too old; says how to get it.
    """
    return _load(installed_flavour(flavour))


def installed_flavour(flavour: str = "auto") -> str:
    """Which TensorRT `find_tensorrt` would import; quick, and nothing is imported.

    Raises:
        ValueError: if the flavour is unknown.
        BackendError: if it is not installed; says how to get it.
    """
    if flavour not in ("auto", *TENSORRT_FLAVOURS):
        choices = ", ".join(("auto", *TENSORRT_FLAVOURS))
        raise ValueError(f"flavour must be one of {choices}, got {flavour!r}.")
    wanted = TENSORRT_FLAVOURS if flavour == "auto" else (flavour,)
    for candidate in wanted:
        if importlib.util.find_spec(candidate) is not None:
            return candidate
    if flavour != "auto":
        raise BackendError(
            f"{_TITLES[flavour]} (Python module {flavour}) is not installed. {_HOW_TO_INSTALL[flavour]}"
        )
    ways = " ".join(f"{_TITLES[name]}: {_HOW_TO_INSTALL[name]}." for name in TENSORRT_FLAVOURS)
    raise BackendError(f"neither TensorRT nor TensorRT-RTX is installed. {ways}")


def _load(flavour: str) -> TensorRTLibrary:
    title, how = _TITLES[flavour], _HOW_TO_INSTALL[flavour]
    try:
        module = importlib.import_module(flavour)
        version = str(module.__version__)
        major = int(version.split(".")[0])
    except (ImportError, OSError, AttributeError, ValueError) as err:  # a library is missing, say
        raise BackendError(
            f"{title} is installed but cannot be loaded ({err}). Install it again: {how}"
        ) from err
    if major < _OLDEST_MAJOR[flavour]:
        raise BackendError(
            f"{title} {version} is too old: version {_OLDEST_MAJOR[flavour]} or newer is needed. {how}"
        )
    return TensorRTLibrary(module, flavour, version)
