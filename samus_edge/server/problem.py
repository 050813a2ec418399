"""Errors as problem documents (RFC 9457)."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from samus_edge.errors import (
    BackendError,
    BadArgumentError,
    ImageFileError,
    MissingExtraError,
    SamusEdgeError,
)

__all__ = ["BUG", "install_problem_handlers", "problem_response", "problems", "what_is_invalid"]

BUG = "The service failed; this is a bug of samus-edge, and its log has the traceback."
_MEDIA_TYPE = "application/problem+json"
_STATUS_OF: dict[type[Exception], int] = {
    BadArgumentError: 422,
    ImageFileError: 415,
    MissingExtraError: 422,  # the request asks for what this installation does not have
    BackendError: 503,
    SamusEdgeError: 500,
}
_logger = logging.getLogger("samus_edge.server")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problem documents of a route, for the OpenAPI document."""
    properties = {name: {"type": "string"} for name in ("type", "title", "detail", "instance")}
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {**properties, "status": {"type": "integer"}},
    }
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {_MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def problem_response(
    status: int, detail: str, instance: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A problem document as a response; `instance` is the path of the request."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
    }
    return JSONResponse(document, status, headers, media_type=_MEDIA_TYPE)


def what_is_invalid(err: RequestValidationError | ValidationError) -> str:
    """Each field of a request that is wrong, and why."""
    return "; ".join(
        ": ".join(part for part in (".".join(map(str, error["loc"])), error["msg"]) if part)
        for error in err.errors()
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Turn errors of the client and of failed jobs into problem documents.

    What is neither is a bug of the service: it gets a handler where requests are logged.
    """

    async def of_http(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, HTTPException)
        headers = dict(err.headers) if err.headers else None
        return problem_response(err.status_code, str(err.detail), request.url.path, headers)

    async def of_validation(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, RequestValidationError)
        return problem_response(422, what_is_invalid(err), request.url.path)

    async def of_ours(request: Request, err: Exception) -> JSONResponse:
        status = next(_STATUS_OF[kind] for kind in type(err).__mro__ if kind in _STATUS_OF)
        if status >= 500:
            _logger.error("job failed", extra={"detail": str(err)})
        return problem_response(status, str(err), request.url.path)

    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    for kind in _STATUS_OF:
        app.add_exception_handler(kind, of_ours)
