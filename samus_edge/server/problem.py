"""Errors as problem documents (RFC 9457)."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from samus_edge.errors import BackendError, ImageFileError, MissingExtraError, SamusEdgeError

__all__ = ["PROBLEM_RESPONSES", "Problem", "install_problem_handlers", "problem_response"]

MEDIA_TYPE = "application/problem+json"
_logger = logging.getLogger("samus_edge.server")


class Problem(Exception):
    """Something that a client should know.

    Args:
        status: HTTP status.
        detail: what was wrong, what was expected, how to mend it.
        headers: of the response.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
    },
}
PROBLEM_RESPONSES = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": _SCHEMA}},
    }
    for status in (400, 401, 404, 405, 411, 413, 415, 422, 429, 500, 503)
}
"""For the OpenAPI document."""


def problem_response(
    status: int, detail: str, instance: str = "", headers: dict[str, str] | None = None
) -> JSONResponse:
    """A problem document as a response."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if instance:
        document["instance"] = instance
    return JSONResponse(document, status, headers, media_type=MEDIA_TYPE)


def install_problem_handlers(app: FastAPI) -> None:
    """Turn every error of an app into a problem document."""

    def path(request: Request) -> str:
        return request.url.path

    async def of_problem(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, Problem)
        return problem_response(err.status, err.detail, path(request), err.headers)

    async def of_http(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, HTTPException)
        headers = dict(err.headers) if err.headers else None
        return problem_response(err.status_code, str(err.detail), path(request), headers)

    async def of_validation(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, RequestValidationError)
        parts = [
            f"{'.'.join(str(step) for step in error['loc'])}: {error['msg']}"
            for error in err.errors()
        ]
        return problem_response(422, "; ".join(parts), path(request))

    async def of_value(request: Request, err: Exception) -> JSONResponse:
        return problem_response(422, str(err), path(request))

    async def of_image(request: Request, err: Exception) -> JSONResponse:
        return problem_response(415, str(err), path(request))

    async def of_backend(request: Request, err: Exception) -> JSONResponse:
        _logger.error("backend failed", extra={"detail": str(err)})
        return problem_response(503, str(err), path(request))

    async def of_ours(request: Request, err: Exception) -> JSONResponse:
        return problem_response(422, str(err), path(request))

    async def of_anything(request: Request, err: Exception) -> JSONResponse:
        _logger.exception("unexpected error")
        return problem_response(500, "something unexpected happened; see the log.", path(request))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[JSONResponse]]] = {
        Problem: of_problem,
        HTTPException: of_http,
        RequestValidationError: of_validation,
        ValueError: of_value,
        TypeError: of_value,
        ImageFileError: of_image,
        BackendError: of_backend,
        MissingExtraError: of_ours,
        SamusEdgeError: of_ours,
        Exception: of_anything,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
