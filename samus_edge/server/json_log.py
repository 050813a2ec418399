"""One JSON document per line in the log; nothing of an image or a patient."""

import json
import logging
import time

__all__ = ["JsonFormatter", "log_settings"]

_FIELDS = ("route", "method", "status", "milliseconds", "client", "request_id", "detail")


class JsonFormatter(logging.Formatter):
    """Time, level, event, and what a record carries of `_FIELDS`."""

    def format(self, record: logging.LogRecord) -> str:
        """As one line."""
        document: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        document |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document)


def log_settings() -> dict[str, object]:
    """For `logging.config.dictConfig`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "json"},
        },
        "loggers": {
            "samus_edge": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            # Ours has the route instead of the path, and no query with a token in it.
            "uvicorn.access": {"handlers": [], "level": "CRITICAL", "propagate": False},
        },
    }
