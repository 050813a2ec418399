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
from typing import Annotated, Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from samus_edge import __version__
from samus_edge.errors import SamusEdgeError
from samus_edge.runtime.bundle.check_frame import CheckFrame, load_check_frames
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.server.live import serve_live
from samus_edge.server.observability import ServerMetrics
from samus_edge.server.problem import (
    PROBLEM_RESPONSES,
    Problem,
    install_problem_handlers,
    problem_response,
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
from samus_edge.server.session import Session, SessionStore, StillImage, UploadedImage, open_upload
from samus_edge.server.settings import ServerSettings

__all__ = [
    "RateLimit",
    "create_app",
]


_MOST_CLIENTS = 10_000


class RateLimit:
    """A bucket of tokens for each client, filled steadily.

    Args:
        per_second: tokens that come back; 0 for no limit.
        burst: tokens that a bucket holds.
        clock: seconds.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, client: str) -> float:
        """Take a token.

        Returns:
            0 if there was one, else seconds until there is.
        """
        if self._per_second <= 0:
            return 0.0
        now = self._clock()
        tokens, at = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._per_second
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        while len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return wait


_PAGE = Path(__file__).with_name("page")
_PAGE_FILES = ("index.html", "page.css", "page.js")
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


class _State:
    """What the routes share.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.sessions = SessionStore(
            settings.most_sessions, settings.session_seconds, settings.most_session_bytes
        )
        self.metrics = ServerMetrics()
        self.rates = RateLimit(settings.requests_per_second, settings.burst)
        self.live = 0
        self.service: SegmentationService | None = None
        self.examples: dict[str, CheckFrame] = {}
        # One inference at a time: its threads have all cores already.
        self.inference = CapacityLimiter(1)

    def ready(self) -> SegmentationService:
        """The service, once it is loaded."""
        if self.service is None:
            raise Problem(503, "the model is not loaded yet. Try again soon.", {"Retry-After": "2"})
        return self.service

    def is_authorised(self, header: str | None, query: str | None = None) -> bool:
        """Whether a request bears the token."""
        token = self.settings.token
        if not token:
            return True
        given = query or ""
        if header is not None and header.lower().startswith("bearer "):
            given = header[7:].strip()
        return secrets.compare_digest(given.encode(), token.encode())


def create_app(settings: ServerSettings) -> FastAPI:
    """Make the service; the model is loaded when it starts.

    Args:
        settings: what may be asked of it.
    """
    state = _State(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        segmenter = await to_thread.run_sync(
            partial(
                Segmenter.load,
                settings.bundle,
                backend=settings.backend,
                precision=settings.precision,
                threads=settings.threads,
            )
        )
        state.examples = {frame.name: frame for frame in load_check_frames()}
        state.service = SegmentationService(segmenter, settings.most_frames)
        _logger.info("ready", extra={"detail": f"{segmenter.backend.name} {segmenter.precision}"})
        yield
        state.service = None
        state.sessions.clear()
        segmenter.close()
        _logger.info("stopped")

    app = FastAPI(
        title="samus-edge",
        version=__version__,
        description=f"Promptable lesion segmentation in ultrasound. {_NOTICE}",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    install_problem_handlers(app)
    hosts = [settings.host, "localhost", "127.0.0.1", "[::1]", *settings.allowed_hosts]
    app.middleware("http")(partial(_guard, state))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.include_router(_open_routes(state))
    app.include_router(_image_routes(state))
    app.add_api_websocket_route("/v1/live", partial(_live, state))
    return app


async def _guard(state: _State, request: Request, call_next: Next) -> Response:
    """Limits, the token, the log and the metrics of every request."""
    begun = time.perf_counter()
    client = request.client.host if request.client else "unknown"
    response = await _refusal(state, request, client) or await call_next(request)
    taken = time.perf_counter() - begun
    route = getattr(request.scope.get("route"), "path", "none")
    state.metrics.requests.labels(route, request.method, response.status_code).inc()
    state.metrics.seconds.labels(route).observe(taken)
    request_id = secrets.token_hex(8)
    for name, value in {**_HEADERS, "X-Request-Id": request_id}.items():
        response.headers[name] = value
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


async def _refusal(state: _State, request: Request, client: str) -> Response | None:
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


def _open_routes(state: _State) -> APIRouter:
    """What needs no token but the metrics."""
    router = APIRouter()

    @router.get("/healthz", tags=["operation"])
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @router.get("/readyz", tags=["operation"], responses=_problems(503))
    async def ready() -> dict[str, str]:
        """Whether the model is loaded."""
        state.ready()
        return {"status": "ready"}

    @router.get("/metrics", tags=["operation"], responses=_problems(401, 429))
    async def metrics() -> Response:
        """For Prometheus."""
        state.metrics.sessions.set(len(state.sessions))
        state.metrics.live.set(state.live)
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")

    def page_file(name: str) -> Callable[[], Awaitable[FileResponse]]:
        async def serve() -> FileResponse:
            return FileResponse(_PAGE / name)

        return serve

    for name in _PAGE_FILES:
        path = "/" if name == "index.html" else f"/{name}"
        router.add_api_route(path, page_file(name), methods=["GET"], include_in_schema=False)
    return router


def _image_routes(state: _State) -> APIRouter:
    router = APIRouter(
        prefix="/v1", tags=["images"], responses=_problems(401, 404, 422, 429, 500, 503)
    )

    def session_of(image_id: str) -> Session:
        return state.sessions.get(image_id)

    Kept = Annotated[Session, Depends(session_of)]

    async def compute(work: Callable[[], Any]) -> Any:
        return await to_thread.run_sync(work, limiter=state.inference)

    @router.get("/info", response_model=ServiceInfo)
    async def info() -> ServiceInfo:
        """What the service is, and what it allows."""
        settings = state.settings
        return ServiceInfo(
            version=__version__,
            trace=state.ready().trace,
            limits={
                "request_bytes": settings.most_request_bytes,
                "sessions": settings.most_sessions,
                "session_seconds": settings.session_seconds,
                "frames": settings.most_frames,
                "requests_per_second": settings.requests_per_second,
                "live": settings.most_live,
            },
            notice=_NOTICE,
        )

    @router.get("/examples", response_model=list[Example])
    async def examples() -> list[Example]:
        """Images that are installed along."""
        state.ready()
        return [
            Example(name=each.name, width=each.image.shape[1], height=each.image.shape[0])
            for each in state.examples.values()
        ]

    @router.post(
        "/images",
        status_code=201,
        response_model=ImageInfo,
        responses=_problems(411, 413, 415),
        openapi_extra={
            "requestBody": {
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
                "required": False,
            }
        },
    )
    async def add_image(
        request: Request, example: Annotated[str | None, Query(max_length=100)] = None
    ) -> ImageInfo:
        """Keep an image: the body is a PNG, JPEG, BMP, TIFF, DICOM, MP4 or AVI file, or `example` names one."""
        state.ready()
        box: list[float] | None = None
        image: UploadedImage
        if example is not None:
            named = state.examples.get(example)
            if named is None:
                known = ", ".join(state.examples)
                raise Problem(404, f"there is no such example. There are {known}.")
            image = StillImage(named.image)
            box = [float(value) for value in named.box]
        else:
            content = await _body(request, state.settings.most_request_bytes)
            if not content:
                raise Problem(422, "the body is empty. Send an image, a DICOM study or a video.")
            image = await to_thread.run_sync(open_upload, content, state.settings.most_frames)
        session = state.sessions.add(image)
        height, width = image.original_hw
        return ImageInfo(
            id=session.id,
            kind=image.kind,  # type: ignore[arg-type]  # one of the three
            width=width,
            height=height,
            frames=image.frame_count,
            frames_per_second=image.frames_per_second,
            box=box,
        )

    @router.delete("/images/{image_id}", status_code=204)
    async def remove_image(image_id: str) -> Response:
        """Forget an image; one that is not there is forgotten already."""
        state.sessions.remove(image_id)
        return Response(status_code=204)

    @router.get(
        "/images/{image_id}/frames/{index}",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **_problems(415)},
    )
    async def frame(session: Kept, index: int) -> Response:
        """A frame as a grey PNG."""
        image = await to_thread.run_sync(session.frame, index)
        return Response(await to_thread.run_sync(png_of, image), media_type="image/png")

    @router.post("/images/{image_id}/masks", response_model=Masks, responses=_problems(415))
    async def masks(session: Kept, request: MaskRequest) -> Any:
        """The mask of a box, of points, or of a box that points refine."""
        found: Masks = await compute(partial(state.ready().masks, session, request))
        for step in ("encode", "decode"):
            if found.timings_ms[step]:
                state.metrics.inference_seconds.labels(step).observe(found.timings_ms[step] / 1000)
        return found

    for name, media_type in (
        ("mask.png", "image/png"),
        ("overlay.png", "image/png"),
        ("segmentation.dcm", "application/dicom"),
    ):
        router.add_api_route(
            f"/images/{{image_id}}/{name}",
            _file_route(state, session_of, name, media_type, compute),
            methods=["POST"],
            response_class=Response,
            responses={200: {"content": {media_type: {}}}, **_problems(415)},
            name=name,
        )

    @router.post(
        "/images/{image_id}/track",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/x-ndjson": {}}}, **_problems(415)},
    )
    async def track(session: Kept, request: TrackRequest) -> StreamingResponse:
        """Follow a lesion; a JSON document per line and frame, each as soon as it is there; or `{"error": "..."}`, the last."""
        documents = await compute(partial(state.ready().track, session, request))

        async def lines() -> AsyncIterator[str]:
            # Frame by frame, so that prompts of others come in between.
            try:
                while (document := await compute(partial(next, documents, None))) is not None:
                    yield json.dumps(document) + "\n"
            except SamusEdgeError as err:  # the status is sent already
                yield json.dumps({"error": str(err)}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return router


def _file_route(
    state: _State,
    session_of: Callable[[str], Session],
    name: str,
    media_type: str,
    compute: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> Callable[..., Awaitable[Response]]:
    async def serve(image_id: str, request: MaskRequest) -> Response:
        service = state.ready()
        work = {
            "mask.png": service.mask_png,
            "overlay.png": service.overlay_png,
            "segmentation.dcm": service.dicom_seg,
        }[name]
        content = await compute(partial(work, session_of(image_id), request))
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=media_type, headers=headers)

    serve.__doc__ = f"The mask of the same prompts as a file, {name}."
    return serve


async def _live(state: _State, websocket: WebSocket) -> None:
    """Frames in, masks out; see `serve_live`."""
    origin, host = websocket.headers.get("origin"), websocket.headers.get("host")
    token = websocket.query_params.get("token")
    # A page of another site may open a socket to this machine; its origin gives it away.
    is_foreign = origin is not None and urlsplit(origin).netloc != host
    header = websocket.headers.get("authorization")
    if is_foreign or not state.is_authorised(header, token) or state.service is None:
        await websocket.close(1008)
        return
    if state.live >= state.settings.most_live:
        await websocket.close(1013)
        return
    state.live += 1
    try:
        await websocket.accept()
        await serve_live(
            websocket,
            state.service.segmenter,
            state.metrics,
            state.settings.most_request_bytes,
        )
    finally:
        state.live -= 1


async def _body(request: Request, most: int) -> bytes:
    """The body, refused as soon as it is too large."""
    length = request.headers.get("content-length", "")
    too_large = Problem(413, f"the body is larger than {most} bytes. Send less, or a part of it.")
    if length.isdecimal() and int(length) > most:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: PROBLEM_RESPONSES[status] for status in statuses}
