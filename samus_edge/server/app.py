"""The service: routes, limits, and the page."""

import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection

from samus_edge import __version__
from samus_edge.errors import SamusEdgeError
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.cine.cine_source import FileFrames, open_frames
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.server.live import serve_live
from samus_edge.server.observability import ServerMetrics
from samus_edge.server.problem import (
    BUG,
    install_problem_handlers,
    problem_response,
    problems,
)
from samus_edge.server.schemas import (
    Example,
    ImageInfo,
    MaskRequest,
    Masks,
    ServiceInfo,
    TrackRequest,
)
from samus_edge.server.segmentation_service import SegmentationService, png_of
from samus_edge.server.session import Session, SessionStore
from samus_edge.server.settings import ServerSettings

__all__ = ["RateLimit", "create_app"]

_MAX_CLIENTS = 10_000
_PAGE = Path(__file__).with_name("page")
_NOTICE = "Research software, not a medical device."
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_logger = logging.getLogger("samus_edge.server")

Next = Callable[[Request], Awaitable[Response]]
Result = TypeVar("Result")


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


class _State:
    """What the routes share."""

    def __init__(self, settings: ServerSettings, segmenter: Segmenter) -> None:
        self.settings = settings
        self.service = SegmentationService(segmenter, settings.max_frames)
        self.sessions = SessionStore(
            settings.max_sessions, settings.session_seconds, settings.max_session_bytes
        )
        self.metrics = ServerMetrics()
        self.rates = RateLimit(settings.requests_per_second, settings.burst)
        self.live = 0
        self.examples = {frame.name: frame for frame in load_check_frames()}
        # One inference at a time: its threads have all cores already.
        self._inference = CapacityLimiter(1)

    def is_authorised(self, header: str | None, query: str | None = None) -> bool:
        """Whether a request bears the token."""
        token = self.settings.token
        if not token:
            return True
        given = query or ""
        if header is not None and header.lower().startswith("bearer "):
            given = header[7:].strip()
        return secrets.compare_digest(given.encode(), token.encode())

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run inference in a thread, when it is its turn."""
        return await to_thread.run_sync(work, limiter=self._inference)


def _state_of(connection: HTTPConnection) -> _State:
    state: _State = connection.app.state.service
    return state


StateOf = Annotated[_State, Depends(_state_of)]


def _session_of(state: StateOf, image_id: str) -> Session:
    return state.sessions.get(image_id)


Kept = Annotated[Session, Depends(_session_of)]


def create_app(settings: ServerSettings, segmenter: Segmenter) -> FastAPI:
    """Make the service.

    Args:
        settings: Limits and the token.
        segmenter: What segments; it stays open.
    """
    state = _State(settings, segmenter)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _logger.info("ready", extra={"detail": f"{segmenter.backend.name} {segmenter.precision}"})
        yield
        state.sessions.clear()
        _logger.info("stopped")

    app = FastAPI(
        title="samus-edge",
        version=__version__,
        description=f"Promptable lesion segmentation in ultrasound. {_NOTICE}",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = state
    install_problem_handlers(app)
    app.middleware("http")(partial(_guard, state))
    hosts = [settings.host, "localhost", "127.0.0.1", "[::1]", *settings.allowed_hosts]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.include_router(_operation)
    app.include_router(_images)
    return app


async def _guard(state: _State, request: Request, call_next: Next) -> Response:
    """Limits, the token, the log and the metrics of every request; the end of every bug."""
    begun = time.perf_counter()
    client = request.client.host if request.client else "unknown"
    request_id = secrets.token_hex(8)
    response = _refusal(state, request, client)
    if response is None:
        try:
            response = await call_next(request)
        except Exception:  # noqa: BLE001  # whatever was not meant for the client: a bug of ours
            state.metrics.count_bug(_route_of(request), request_id)
            response = problem_response(500, BUG, request.url.path)
    taken = time.perf_counter() - begun
    route = _route_of(request)
    state.metrics.requests.labels(route, request.method, response.status_code).inc()
    state.metrics.seconds.labels(route).observe(taken)
    response.headers.update({**_HEADERS, "X-Request-Id": request_id})
    _logger.info(
        "request",
        extra={
            "route": route,
            "method": request.method,
            "status": response.status_code,
            "milliseconds": round(1000 * taken, 2),
            "client": client,
            "request_id": request_id,
        },
    )
    return response


def _route_of(request: Request) -> str:
    return getattr(request.scope.get("route"), "path", "none")


def _refusal(state: _State, request: Request, client: str) -> Response | None:
    path = request.url.path
    if not path.startswith("/v1/") and path != "/metrics":
        return None
    wait = state.rates.wait_seconds(client)
    if wait > 0:
        return problem_response(
            429,
            f"too many requests; at most {state.settings.requests_per_second:g} a second.",
            path,
            {"Retry-After": str(max(1, round(wait)))},
        )
    if not state.is_authorised(request.headers.get("authorization")):
        return problem_response(
            401, "give the token: Authorization: Bearer ...", path, {"WWW-Authenticate": "Bearer"}
        )
    return None


_operation = APIRouter()


@_operation.get("/healthz", tags=["operation"])
async def _health() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@_operation.get("/readyz", tags=["operation"])
async def _ready() -> dict[str, str]:
    """Whether the model is loaded; the port is not open before."""
    return {"status": "ready"}


@_operation.get("/metrics", tags=["operation"], responses=problems(401, 429))
async def _metrics(state: StateOf) -> Response:
    """For Prometheus."""
    state.metrics.sessions.set(len(state.sessions))
    state.metrics.live.set(state.live)
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")


@_operation.get("/", include_in_schema=False)
async def _page() -> FileResponse:
    return FileResponse(_PAGE / "index.html")


@_operation.get("/page.css", include_in_schema=False)
async def _page_style() -> FileResponse:
    return FileResponse(_PAGE / "page.css")


@_operation.get("/page.js", include_in_schema=False)
async def _page_script() -> FileResponse:
    return FileResponse(_PAGE / "page.js")


_images = APIRouter(prefix="/v1", tags=["images"], responses=problems(401, 404, 422, 429, 500, 503))


@_images.get("/info")
async def _info(state: StateOf) -> ServiceInfo:
    """What the service is, and what it allows."""
    settings = state.settings
    return ServiceInfo(
        version=__version__,
        trace=state.service.trace,
        limits={
            "request_bytes": settings.max_request_bytes,
            "sessions": settings.max_sessions,
            "session_seconds": settings.session_seconds,
            "frames": settings.max_frames,
            "requests_per_second": settings.requests_per_second,
            "live": settings.max_live,
        },
        notice=_NOTICE,
    )


@_images.get("/examples")
async def _examples(state: StateOf) -> list[Example]:
    """Images that are installed along."""
    return [
        Example(name=each.name, width=each.image.shape[1], height=each.image.shape[0])
        for each in state.examples.values()
    ]


@_images.post(
    "/images",
    status_code=201,
    responses=problems(411, 413, 415),
    openapi_extra={
        "requestBody": {
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
            "required": False,
        }
    },
)
async def _add_image(
    state: StateOf,
    request: Request,
    example: Annotated[str | None, Query(max_length=100)] = None,
) -> ImageInfo:
    """Keep an image: the body is a PNG, JPEG, BMP, TIFF, WebP, DICOM, MP4 or AVI file, or
    `example` names one."""
    box: list[float] | None = None
    if example is not None:
        named = state.examples.get(example)
        if named is None:
            raise HTTPException(
                404, f"there is no such example. There are {', '.join(state.examples)}."
            )
        image = FileFrames(named.name, "image", [named.image])
        box = [float(value) for value in named.box]
    else:
        content = await _body(request, state.settings.max_request_bytes)
        if not content:
            raise HTTPException(422, "the body is empty. Send an image, a DICOM study or a video.")
        max_frames = state.settings.max_frames
        image = await to_thread.run_sync(
            partial(open_frames, content, "the file", max_video_frames=max_frames)
        )
    session = state.sessions.add(image)
    height, width = image.original_hw
    return ImageInfo(
        id=session.id,
        kind=image.kind,
        width=width,
        height=height,
        frames=len(image),
        frames_per_second=image.frames_per_second,
        box=box,
    )


async def _body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is too large."""
    length = request.headers.get("content-length", "")
    too_large = HTTPException(
        413, f"the body is larger than {limit} bytes. Send less, or a part of it."
    )
    if length.isdecimal() and int(length) > limit:
        raise too_large
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise too_large
    return bytes(content)


@_images.delete("/images/{image_id}", status_code=204)
async def _remove_image(state: StateOf, image_id: str) -> Response:
    """Forget an image; one that is not there is forgotten already."""
    state.sessions.remove(image_id)
    return Response(status_code=204)


def _file_of(media_type: str) -> dict[str, Any]:
    """Options of a route that answers with a file."""
    responses = {200: {"content": {media_type: {}}}, **problems(415)}
    return {"response_class": Response, "responses": responses}


@_images.get("/images/{image_id}/frames/{index}", **_file_of("image/png"))
async def _frame(session: Kept, index: int) -> Response:
    """A frame as a grey PNG."""
    image = await to_thread.run_sync(session.frame, index)
    return Response(await to_thread.run_sync(png_of, image), media_type="image/png")


@_images.post("/images/{image_id}/masks", responses=problems(415))
async def _masks(state: StateOf, session: Kept, request: MaskRequest) -> Masks:
    """The mask of a box, of points, or of a box that points refine."""
    found = await state.compute(partial(state.service.masks, session, request))
    for step in ("encode", "decode"):
        if found.timings_ms[step]:
            state.metrics.inference_seconds.labels(step).observe(found.timings_ms[step] / 1000)
    return found


@_images.post("/images/{image_id}/mask.png", **_file_of("image/png"))
async def _mask_png(state: StateOf, session: Kept, request: MaskRequest) -> Response:
    """The mask of the same prompts as a PNG file, 0 and 255."""
    content = await state.compute(partial(state.service.mask_png, session, request))
    return _attachment(content, "mask.png", "image/png")


@_images.post("/images/{image_id}/overlay.png", **_file_of("image/png"))
async def _overlay_png(state: StateOf, session: Kept, request: MaskRequest) -> Response:
    """The mask of the same prompts, drawn for people, as a PNG file."""
    content = await state.compute(partial(state.service.overlay_png, session, request))
    return _attachment(content, "overlay.png", "image/png")


@_images.post("/images/{image_id}/segmentation.dcm", **_file_of("application/dicom"))
async def _segmentation_dcm(state: StateOf, session: Kept, request: MaskRequest) -> Response:
    """The mask of the same prompts as a DICOM segmentation."""
    content = await state.compute(partial(state.service.dicom_seg, session, request))
    return _attachment(content, "segmentation.dcm", "application/dicom")


def _attachment(content: bytes, name: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)


@_images.post("/images/{image_id}/track", **_file_of("application/x-ndjson"))
async def _track(
    state: StateOf, session: Kept, request: TrackRequest, http: Request
) -> StreamingResponse:
    """Follow a lesion: a JSON document per line and frame, as soon as it is there; an `{"error":
    "..."}` ends it."""
    documents = await state.compute(partial(state.service.track, session, request))

    async def lines() -> AsyncIterator[str]:
        # Frame by frame, so that prompts of others come in between. The status is sent already.
        try:
            while (document := await state.compute(partial(next, documents, None))) is not None:
                yield json.dumps(document) + "\n"
        except SamusEdgeError as err:
            yield json.dumps({"error": str(err)}) + "\n"
        except Exception:  # noqa: BLE001  # as in `_guard`
            state.metrics.count_bug(_route_of(http))
            yield json.dumps({"error": BUG}) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@_images.websocket("/live")
async def _live(state: StateOf, websocket: WebSocket) -> None:
    """Frames in, masks out; see `serve_live`."""
    origin, host = websocket.headers.get("origin"), websocket.headers.get("host")
    token = websocket.query_params.get("token")
    # A page of another site may open a socket to this machine; its origin gives it away.
    is_foreign = origin is not None and urlsplit(origin).netloc != host
    header = websocket.headers.get("authorization")
    if is_foreign or not state.is_authorised(header, token):
        await websocket.close(1008)
        return
    if state.live >= state.settings.max_live:
        await websocket.close(1013)
        return
    state.live += 1
    try:
        await websocket.accept()
        segmenter, limit = state.service.segmenter, state.settings.max_request_bytes
        await serve_live(websocket, segmenter, state.metrics, limit)
    finally:
        state.live -= 1
