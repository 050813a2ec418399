"""What stands between the network and the routes: who may ask, how much, how fast."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from samus_edge.server.observability import ServerMetrics
from samus_edge.server.problem import BUG, problem_response
from samus_edge.server.settings import ServerSettings

__all__ = ["TOKEN_COOKIE", "Guard", "RateLimit", "Tokens", "patient_protocol"]

TOKEN_COOKIE = "samus_edge_token"
_SUBPROTOCOL = "samus-edge.bearer."
_MAX_CLIENTS = 10_000
_SAFE = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_SAFE, "POST", "PUT", "PATCH", "DELETE")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TAKES_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))")
_SMALL_BYTES = 1024  # is not compressed
# Bodies. Whatever is no file is JSON, which takes many times its size when it is parsed.
_FILE_PATHS = ("/v1/images", "/v1/segment")
_FORM_BYTES = 1 << 16  # of a form, beside its file
_JSON_BYTES = 1 << 20
_TASKS_BYTES = 1 << 24  # of Label Studio, whose tasks may bring their annotations along
_WRONG_HOST = (
    "this service is not known by that host name. Ask for it by an address of the machine, or "
    "start it with --allow-host NAME."
)
_logger = logging.getLogger("samus_edge.server")


class RateLimit:
    """A bucket of tokens for each client, filled steadily.

    Args:
        per_second: Tokens that come back; 0 for no limit.
        burst: Tokens that a bucket holds.
        clock: Seconds.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, client: str) -> float:
        """Take a token; 0 if there was one, else the seconds until there is."""
        if self._per_second <= 0:
            return 0.0
        now = self._clock()
        tokens, at = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._per_second
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        while len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class Tokens:
    """Who may ask.

    Args:
        token: What requests must bear; None for nothing.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token
        # Shows that a browser knew the token, which the page itself then need not keep.
        self.cookie = hmac.new((token or "").encode(), b"page", hashlib.sha256).hexdigest()

    def accepts(self, given: str) -> bool:
        """Whether it is the token."""
        return self._token is None or secrets.compare_digest(given.encode(), self._token.encode())

    def has_authorised(self, connection: HTTPConnection) -> bool:
        """Whether a request bears the token: in `Authorization`, as a browser's cookie, or, since
        browsers set no headers for WebSockets, in a subprotocol."""
        if self._token is None:
            return True
        headers = connection.headers
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.accepts(given.strip()):
            return True
        if scheme.lower() == "basic":  # all that Label Studio can send; the name does not matter
            try:
                _, _, password = base64.b64decode(given).decode().partition(":")
            except ValueError:
                return False
            if self.accepts(password):
                return True
        cookie = connection.cookies.get(TOKEN_COOKIE, "")
        if secrets.compare_digest(cookie.encode(), self.cookie.encode()):
            return True
        return connection.scope["type"] == "websocket" and any(
            secrets.compare_digest(each, f"{_SUBPROTOCOL}{self._token.encode().hex()}")
            for each in connection.scope.get("subprotocols", ())
            if each.isascii()
        )


class Guard:
    """The middleware around all routes: limits, the log and the metrics of every request, and the
    end of every bug.

    Args:
        app: What it guards.
        settings: Limits.
        tokens: Who may ask.
        metrics: Where requests are counted.
        rates: How often each client may ask.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        tokens: Tokens,
        metrics: ServerMetrics,
        rates: RateLimit,
    ) -> None:
        self._app, self._settings, self._tokens, self._metrics = app, settings, tokens, metrics
        self._rates = rates
        self.incoming_bytes = 0  # of bodies whose requests are not answered yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            connection = HTTPConnection(scope)
            refusal = self._refusal(connection, "WEBSOCKET")
            if refusal is None:
                await self._app(scope, receive, send)
                return
            self._count("/v1/live", "GET", refusal[0], 0.0, connection, secrets.token_hex(8))
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1][:120]})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        send = _zipping(request.headers, send)
        begun, request_id = time.perf_counter(), secrets.token_hex(8)
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = request_id
            await send(message)

        self._metrics.in_flight.inc()
        body = _Body(receive, self._most_bytes(request), self, self._settings)
        try:
            refusal = self._refusal(request, request.method)
            if refusal is not None:
                response = problem_response(refusal[0], refusal[1], request.url.path, refusal[2])
                await response(scope, receive, send_marked)
            else:
                await self._app(scope, body.receive, send_marked)
        except Exception:  # noqa: BLE001  # whatever was not meant for the client: a bug of ours
            self._metrics.count_bug(_route_of(scope), request_id)
            if status == 0:
                response = problem_response(500, BUG, request.url.path)
                await response(scope, receive, send_marked)
        finally:
            self.incoming_bytes -= body.size
            self._metrics.in_flight.dec()
            taken = time.perf_counter() - begun
            self._count(_route_of(scope), request.method, status, taken, request, request_id)

    def _refusal(
        self, connection: HTTPConnection, method: str
    ) -> tuple[int, str, dict[str, str]] | None:
        """Status, reason and headers of a request that gets no further."""
        headers, path = connection.headers, connection.scope["path"]
        host = headers.get("host", "")
        if not self._is_our_name(host):
            return 421, _WRONG_HOST, {}
        if method not in _SAFE and _is_foreign(headers):
            return 403, "a page of another site asks; only this service's own page may.", {}
        if not path.startswith("/v1/") and path != "/metrics":
            return None
        client = connection.client.host if connection.client else "unknown"
        wait = self._rates.wait_seconds(client)
        if wait > 0:
            return (
                429,
                f"too many requests; at most {self._settings.requests_per_second:g} a second.",
                {"Retry-After": str(max(1, round(wait)))},
            )
        if path != "/v1/login" and not self._tokens.has_authorised(connection):
            return (
                401,
                "give the token: Authorization: Bearer ...",
                {"WWW-Authenticate": "Bearer"},
            )
        length = headers.get("content-length", "")
        most = self._most_bytes(connection)
        if length.isdecimal() and int(length) > most:
            return 413, _too_large(most), {}
        return None

    def _most_bytes(self, connection: HTTPConnection) -> int:
        """Size that a request's body may have."""
        path, headers = connection.scope["path"], connection.headers
        if path in _FILE_PATHS:
            is_form = headers.get("content-type", "").startswith("multipart/")
            return self._settings.max_request_bytes + (_FORM_BYTES if is_form else 0)
        return _TASKS_BYTES if path.startswith("/v1/label-studio/") else _JSON_BYTES

    def _is_our_name(self, host: str) -> bool:
        """Whether a request is addressed to us.

        A page of another site whose name was pointed to this machine gives that name. Whoever
        names an address has not been misled.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        own = {"localhost", self._settings.host, *map(str.lower, self._settings.allowed_hosts)}
        if name in own:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return self._settings.is_on_all_addresses and name == socket.gethostname().lower()
        return self._settings.is_on_all_addresses or address.is_loopback

    def _count(
        self,
        route: str,
        method: str,
        status: int,
        seconds: float,
        connection: HTTPConnection,
        request_id: str,
    ) -> None:
        method = method if method in _METHODS else "other"
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        _logger.info(
            "request",
            extra={
                "route": route,
                "method": method,
                "status": status,
                "milliseconds": round(1000 * seconds, 2),
                "client": connection.client.host if connection.client else "unknown",
                "request_id": request_id,
            },
        )


class _Body:
    """`receive` of one request, which does not wait for ever for the next part of a body, and takes
    no more than is allowed, of this one or of all together.

    Attributes:
        size: Bytes that have come.
    """

    def __init__(
        self, receive: Receive, most_bytes: int, guard: Guard, settings: ServerSettings
    ) -> None:
        self._receive, self._most_bytes = receive, most_bytes
        self._guard, self._settings = guard, settings
        self._is_whole = False
        self.size = 0

    async def receive(self) -> Message:
        """The next message of the request."""
        if self._is_whole:  # waits for the client to go, which may take as long as the answer
            return await self._receive()
        seconds = self._settings.body_seconds
        try:
            message = await asyncio.wait_for(self._receive(), seconds)
        except asyncio.TimeoutError:
            raise HTTPException(
                408,
                f"nothing came for {seconds:g} seconds. Send the body without pauses.",
                {"Connection": "close"},
            ) from None
        self._is_whole = not message.get("more_body", False)
        came = len(message.get("body", b""))
        self.size += came
        self._guard.incoming_bytes += came
        if self.size > self._most_bytes:
            raise HTTPException(413, _too_large(self._most_bytes))
        if self._guard.incoming_bytes > max(self._most_bytes, self._settings.max_incoming_bytes):
            raise HTTPException(
                503, "too much is being sent at once. Try again later.", {"Retry-After": "10"}
            )
        return message


def _too_large(most_bytes: int) -> str:
    return f"the body is larger than {most_bytes} bytes. Send less, or a part of it."


def _zipping(asked: Headers, send: Send) -> Send:
    """`send` that compresses text where the client takes that. Files of images, arrays and videos
    are compressed already, and a cine's lines are to come one by one."""
    if not _TAKES_GZIP.search(asked.get("accept-encoding", "")):
        return send
    start: Message | None = None

    async def send_zipped(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kind = headers.get("content-type", "").partition(";")[0]
            if message["status"] == 200 and (kind.startswith("text/") or kind.endswith("/json")):
                start = message
                return
        elif start is not None:
            headers, body = MutableHeaders(scope=start), message.get("body", b"")
            headers.add_vary_header("Accept-Encoding")
            if len(body) >= _SMALL_BYTES and not message.get("more_body", False):
                body = gzip.compress(body, 5, mtime=0)
                headers["Content-Encoding"], headers["Content-Length"] = "gzip", str(len(body))
                if "etag" in headers:
                    headers["ETag"] = f"W/{headers['etag']}"
                message = {**message, "body": body}
            held, start = start, None
            await send(held)
        await send(message)

    return send_zipped


def _route_of(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "none")


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser says that a page of another site asks; other clients say nothing."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return True
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def patient_protocol(header_seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 for clients that are given so many seconds to send a request's header.

    uvicorn itself waits for ever: some hundred clients that send half a header would keep its
    sockets.
    """

    class PatientProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watching()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            self._stop_watching()
            super().handle_websocket_upgrade(event)

        def _watch(self) -> None:
            if (
                self.conn.their_state is not h11.IDLE
                or self.conn.our_state is h11.SWITCHED_PROTOCOL
            ):
                self._stop_watching()
            elif self._timer is None:
                self._timer = self.loop.call_later(header_seconds, self.transport.abort)

        def _stop_watching(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return PatientProtocol
