"""Errors that a caller may want to catch.

SamusEdgeError
 ├── MissingExtraError
 ├── BundleError
 ├── ImageFileError
 ├── OutputFileError
 ├── ExportMismatchError
 ├── WeightsError
 ├── DataError
 ├── BackendError
 └── JobInterruptedError

Bad arguments are ValueError or TypeError, as everywhere in Python.
"""

__all__ = [
    "BackendError",
    "BundleError",
    "DataError",
    "ExportMismatchError",
    "ImageFileError",
    "JobInterruptedError",
    "MissingExtraError",
    "OutputFileError",
    "SamusEdgeError",
    "WeightsError",
]


class SamusEdgeError(Exception):
    """Root of the errors that samus-edge raises for what is not a bad argument."""


class MissingExtraError(SamusEdgeError):
    """A package of an optional extra is needed and not installed."""


class BundleError(SamusEdgeError):
    """A bundle is missing, damaged, tampered with or of a newer format."""


class ImageFileError(SamusEdgeError):
    """An image file is missing, empty, truncated, too large or of an unsupported kind."""


class OutputFileError(SamusEdgeError):
    """A result cannot be written where it was asked for; nothing was left half-written."""


class ExportMismatchError(SamusEdgeError):
    """An exported graph does not compute what the model computes."""


class WeightsError(SamusEdgeError):
    """A checkpoint is not what it should be."""


class DataError(SamusEdgeError):
    """A dataset is incomplete or broken."""


class BackendError(SamusEdgeError):
    """A backend is not available, or fails on a graph."""


class JobInterruptedError(SamusEdgeError):
    """A job was asked to stop, and has saved what it had."""
