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

ValueError
 └── BadArgumentError

`BadArgumentError` is what a caller gave wrong: exit code 2, status 422. `SamusEdgeError` is a job that
failed: exit code 1. Whatever else reaches the command line or the service is a bug of ours: logged with
its traceback, exit code 1, status 500.
"""

__all__ = [
    "BackendError",
    "BadArgumentError",
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
    """Root of the errors of a job that failed although its arguments were right."""


class BadArgumentError(ValueError):
    """An argument is wrong: a value, a shape, a range, a combination. The message says what was expected."""


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
