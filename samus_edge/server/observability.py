"""What the service tells those who run it: metrics for Prometheus and a log in JSON."""

import json
import logging
import time

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from samus_edge import __version__

__all__ = [
    "JsonFormatter",
    "ServerMetrics",
    "log_settings",
]

_logger = logging.getLogger("samus_edge.server")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServerMetrics:
    """Metrics of one app, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        build = Info("samus_edge_build", "What runs.", registry=self._registry)
        build.info({"version": __version__})
        self.in_flight = Gauge(
            "samus_edge_requests_in_flight", "Requests under way.", registry=self._registry
        )
        self.session_bytes = Gauge(
            "samus_edge_session_bytes", "Memory of the images kept.", registry=self._registry
        )
        self.evictions = Counter(
            "samus_edge_session_evictions_total",
            "Images forgotten, by reason: unused, count, memory.",
            ("reason",),
            registry=self._registry,
        )
        self.requests = Counter(
            "samus_edge_requests_total",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "samus_edge_request_seconds",
            "Seconds from a request to its response.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.inference_seconds = Histogram(
            "samus_edge_inference_seconds",
            "Seconds of encoding, decoding and measuring.",
            ("step",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.sessions = Gauge("samus_edge_sessions", "Images kept.", registry=self._registry)
        self.live = Gauge("samus_edge_live", "Live connections.", registry=self._registry)
        self.live_frames = Counter(
            "samus_edge_live_frames_total",
            "Frames of live connections, done and dropped.",
            ("what",),
            registry=self._registry,
        )

        self.bugs = Counter(
            "samus_edge_unhandled_errors_total",
            "Errors that are neither the client's nor a failed job: bugs, with a traceback in the "
            "log.",
            ("route",),
            registry=self._registry,
        )

    def count_bug(self, route: str, request_id: str = "") -> None:
        """Count the exception that is being handled, and log it with its traceback."""
        self.bugs.labels(route).inc()
        _logger.exception("unhandled error", extra={"route": route, "request_id": request_id})

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


_FIELDS = ("route", "method", "status", "milliseconds", "client", "request_id", "detail")


class JsonFormatter(logging.Formatter):
    """A JSON document per line: time, level, event, and the record's `_FIELDS`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
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
    """Settings for `logging.config.dictConfig`."""
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
