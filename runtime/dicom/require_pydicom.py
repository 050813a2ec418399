"""The extra [dicom], or a clear error."""

from importlib.util import find_spec

from samus_edge.errors import MissingExtraError

__all__ = ["HEAD_BYTES", "is_dicom", "require_highdicom", "require_pydicom"]

_PREAMBLE_BYTES = 128
_PREFIX = b"DICM"
HEAD_BYTES = _PREAMBLE_BYTES + len(_PREFIX)
"""Of a file that say whether it is DICOM."""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM; needs `HEAD_BYTES` of it."""
    return head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + len(_PREFIX)] == _PREFIX


def require_pydicom() -> None:
    """Make sure that DICOM files can be read.

    Raises:
        MissingExtraError: if pydicom 3 is not installed.
    """
    _require("pydicom", "pydicom.pixels")


def require_highdicom() -> None:
    """Make sure that DICOM segmentations and reports can be written.

    Raises:
        MissingExtraError: if highdicom is not installed.
    """
    _require("highdicom", "highdicom")


def _require(package: str, module: str) -> None:
    try:
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent
        is_there = False
    if not is_there:
        raise MissingExtraError(
            f"DICOM needs {package!r}, which is not installed. "
            "Install it with: pip install 'samus-edge[dicom]'"
        )
