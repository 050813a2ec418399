"""TensorRT's messages, in Python's log."""

import logging
from typing import Any

__all__ = ["TensorRTLog"]

_logger = logging.getLogger(__name__)


class TensorRTLog:
    """A logger for TensorRT that writes to Python's: warnings, and at the level DEBUG the rest.

    Attributes:
        logger: the `ILogger` that TensorRT takes; must live as long as what it is given to.
        errors: TensorRT's errors since the list was last cleared, for an exception's message.
    """

    def __init__(self, trt: Any) -> None:
        """Make one for a module `tensorrt` or `tensorrt_rtx`."""
        self.errors: list[str] = []
        self.logger = _make_logger(trt, self.errors)


def _make_logger(trt: Any, errors: list[str]) -> Any:
    base: Any = trt.ILogger
    failures = (base.INTERNAL_ERROR, base.ERROR)

    class Log(base):  # type: ignore[misc]  # its class is known only when the module is imported
        def __init__(self) -> None:
            base.__init__(self)  # as pybind11 needs it

        def log(self, severity: Any, message: str) -> None:
            if severity in failures:
                errors.append(message)
            level = logging.WARNING if severity == base.WARNING else logging.DEBUG
            _logger.log(level, "%s", message)

    return Log()
