"""The service: routes, limits, and the page."""

import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from anyio import CapacityLimiter, create_task_group, sleep, to_thread
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response, Security, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import HTTPConnection

from samus_edge import __version__
from samus_edge.errors import SamusEdgeError
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.cine.cine_source import CineFrame, FileFrames
from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.server.decoding import Decoders
from samus_edge.server.guard import TOKEN_COOKIE, Guard, RateLimit, Tokens
from samus_edge.server.live import serve_live
from samus_edge.server.observability import ServerMetrics
from samus_edge.server.problem import (
    BUG,
    install_problem_handlers,
    problems,
    what_is_invalid,
)
from samus_edge.server.schemas import (
    Example,
    ImageInfo,
    Login,
    MaskFile,
    MaskRequest,
    Masks,
    ProposalRequest,
    Proposals,
    ServiceInfo,
    TrackFile,
    TrackRequest,
)
from samus_edge.server.segmentation_service import SegmentationService, describe_image, png_of
from samus_edge.server.session import ReadyFrame, Session, SessionStore
from samus_edge.server.settings import ServerSettings

__all__ = ["create_app"]

_PAGE = Path(__file__).with_name("page")
_WAITING_TO_DECODE = 32
_FILE_TYPES = ("application/octet-stream", "application/dicom")
_TYPES = {
    ".png": "image/png",
    ".json": "application/json",
    ".csv": "text/csv",
    ".npz": "application/zip",
    ".dcm": "application/dicom",
    ".mp4": "video/mp4",
}
_MASK_TYPES = tuple(dict.fromkeys(_TYPES[Path(name).suffix] for name in get_args(MaskFile)))
_NOTICE = "Research software, not a medical device."
_logger = logging.getLogger("samus_edge.server")

Result = TypeVar("Result")


class _State:
    """What the routes share."""

    def __init__(self, settings: ServerSettings, segmenter: Segmenter) -> None:
        self.settings = settings
        self.tokens = Tokens(settings.token)
        self.rates = RateLimit(settings.requests_per_second, settings.burst)
        self.service = SegmentationService(segmenter, settings.max_frames)
        self.metrics = ServerMetrics()
        self.sessions = SessionStore(
            settings.max_sessions,
            settings.session_seconds,
            settings.max_session_bytes,
            when_gone=lambda reason: self.metrics.evictions.labels(reason).inc(),
        )
        self.live = 0
        self.examples = {frame.name: frame for frame in load_check_frames()}
        # One inference at a time: its threads have all cores already.
        self._inference = CapacityLimiter(1)
        self._saving = CapacityLimiter(1)
        self._decoding = CapacityLimiter(settings.decode_slots + _WAITING_TO_DECODE)
        self.decoders = Decoders(settings.decode_slots, settings.decode_seconds)
        # Live frames do not wait for files; a process starts with the first frame that needs it.
        self.live_decoders = Decoders(settings.max_live, settings.decode_seconds)

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run inference in a thread, when it is its turn."""
        return await to_thread.run_sync(work, limiter=self._inference)

    async def save(self, work: Callable[[], Result]) -> Result:
        """Put the files of a cine together, beside the inference of others."""
        return await to_thread.run_sync(work, limiter=self._saving)

    async def decode(self, work: Callable[[], Result]) -> Result:
        """Wait for `decoders` in a thread, of which there are enough for all else.

        Raises:
            HTTPException: if too many wait.
        """
        if not self._decoding.available_tokens:
            raise self.decoders.busy
        return await to_thread.run_sync(work, limiter=self._decoding, abandon_on_cancel=True)

    async def decode_live(self, content: bytes) -> GreyFrame:
        """Decode a frame of a live connection; errors as of `Decoders.open`."""
        work = partial(self.live_decoders.frame, content)
        return await to_thread.run_sync(work, abandon_on_cancel=True)

    async def ready_frame(
        self, session: Session, index: int, *, needs_pixels: bool = False
    ) -> ReadyFrame:
        """A frame to compute on, decoded before it is its turn: nobody waits for a file of another.

        Raises:
            HTTPException: as `decode`; if there is no such frame.
            ImageFileError: if it cannot be decoded.
        """
        ready = partial(session.ready_frame, index, needs_pixels=needs_pixels)
        found = ready(decodes=False) or await self.decode(ready)
        assert found is not None
        return found

    async def sweep(self) -> None:
        """Forget what nobody uses any more, for as long as the service runs."""
        while True:
            await sleep(self.settings.sweep_seconds)
            self.sessions.sweep()


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
        async with create_task_group() as tasks:
            tasks.start_soon(state.sweep)
            yield
            tasks.cancel_scope.cancel()
        state.sessions.clear()
        state.decoders.close()
        state.live_decoders.close()
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
    app.add_middleware(
        Guard, settings=settings, tokens=state.tokens, metrics=state.metrics, rates=state.rates
    )
    app.include_router(_operation)
    app.include_router(_images)
    if settings.label_studio:
        from samus_edge.server.label_studio import ImageFetcher, label_studio_routes

        fetcher = ImageFetcher(
            settings.label_studio, settings.label_studio_key, settings.max_request_bytes
        )
        app.include_router(label_studio_routes(state, fetcher), dependencies=[_BEARER, _COOKIE])
    return app


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
    state.metrics.session_bytes.set(state.sessions.memory_bytes())
    state.metrics.live.set(state.live)
    return Response(state.metrics.text(), media_type=ServerMetrics.content_type)


@_operation.post(
    "/v1/login", status_code=204, responses=problems(400, 401, 408, 413, 415, 422, 429, 503)
)
async def _log_in(state: StateOf, request: Request, given: Login) -> Response:
    """Give the token once, and get a cookie that stands for it in this browser."""
    if not state.tokens.accepts(given.token):
        raise HTTPException(401, "this is not the token.", {"WWW-Authenticate": "Bearer"})
    response = Response(status_code=204)
    response.set_cookie(
        TOKEN_COOKIE,
        state.tokens.cookie,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@_operation.get("/", include_in_schema=False)
async def _page() -> FileResponse:
    return FileResponse(_PAGE / "index.html")


@_operation.get("/page.css", include_in_schema=False)
async def _page_style() -> FileResponse:
    return FileResponse(_PAGE / "page.css")


@_operation.get("/page.js", include_in_schema=False)
async def _page_script() -> FileResponse:
    return FileResponse(_PAGE / "page.js")


# What the guard asks for where the service has a token, as the OpenAPI document says it.
_BEARER = Security(HTTPBearer(auto_error=False, description="The token of the service."))
_COOKIE = Security(APIKeyCookie(name=TOKEN_COOKIE, auto_error=False, description="By logging in."))
_images = APIRouter(
    prefix="/v1",
    tags=["images"],
    responses=problems(400, 401, 403, 404, 408, 413, 421, 422, 429, 500, 503),
    dependencies=[_BEARER, _COOKIE],
)


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
        can_propose=state.service.segmenter.can_propose,
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
    responses=problems(415),
    openapi_extra={
        "requestBody": {
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {"file": {"type": "string", "format": "binary"}},
                    }
                },
            },
            "required": False,
        }
    },
)
async def _add_image(
    state: StateOf,
    request: Request,
    answer: Response,
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
        session = Session(FileFrames(named.name, "image", [named.image]))
        box = [float(value) for value in named.box]
    else:
        content, _ = await _upload(request)
        session = await _opened(content, state)
    state.sessions.add(session)
    answer.headers["Location"] = f"/v1/images/{session.id}"
    return await to_thread.run_sync(describe_image, session, box)


@_images.get("/images")
async def _list_images(state: StateOf) -> list[ImageInfo]:
    """The images that are kept, of all who bear the token; the one used last comes last."""
    kept = state.sessions.all()
    return await to_thread.run_sync(lambda: [describe_image(each, None) for each in kept])


@_images.get("/images/{image_id}")
async def _image(session: Kept) -> ImageInfo:
    """What is known of an image."""
    return await to_thread.run_sync(describe_image, session, None)


class _InMemory(MultiPartParser):
    """Parts of a form stay in memory; what is a patient's is not written into files."""

    spool_max_size = 1 << 40


async def _upload(request: Request) -> tuple[bytes, str]:
    """An uploaded file, as the body or as `file` of a form, and the form's `prompt`."""
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip()
    if kind == "multipart/form-data":
        try:
            parser = _InMemory(request.headers, request.stream(), max_files=1, max_fields=1)
            form = await parser.parse()
        except MultiPartException as err:
            raise HTTPException(422, f"the form cannot be read: {err.message}") from None
        try:
            file, prompt = form.get("file"), form.get("prompt", "")
            if isinstance(file, UploadFile) and isinstance(prompt, str):
                return await file.read(), prompt
        finally:
            await form.close()
        raise HTTPException(422, "the form has no file: curl -F file=@x.png -F prompt='{...}'")
    if kind not in _FILE_TYPES and not kind.startswith(("image/", "video/")):
        raise HTTPException(
            415,
            "the body is an image, a study or a video: send it with the header Content-Type: "
            "application/octet-stream (or image/..., video/..., application/dicom), or as `file` "
            "of a form: curl -F file=@x.png",
        )
    return await request.body(), ""


async def _opened(content: bytes, state: _State) -> Session:
    """An uploaded file, hashed and opened outside the event loop."""
    if not content:
        raise HTTPException(422, "the body is empty. Send an image, a DICOM study or a video.")

    def work() -> Session:
        frames = state.decoders.open(content, "the file", state.settings.max_frames)
        return Session(frames, content)

    return await state.decode(work)


@_images.post(
    "/segment",
    response_model=Masks,
    responses=problems(415),
    openapi_extra={
        "requestBody": {
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file", "prompt"],
                        "properties": {
                            "file": {"type": "string", "format": "binary"},
                            "prompt": {"type": "string", "description": "A MaskRequest as JSON."},
                        },
                    }
                }
            },
            "required": True,
        }
    },
)
async def _segment(state: StateOf, request: Request, result: MaskFile | None = None) -> Any:
    """An image and prompts in, masks out, and nothing is kept: a form with `file` and `prompt`, the
    JSON of `/v1/images/{image_id}/masks`; `result` asks for a file instead of JSON."""
    content, prompt = await _upload(request)
    try:
        wanted = MaskRequest.model_validate_json(prompt or "{}")
    except ValidationError as err:
        raise HTTPException(422, f"prompt: {what_is_invalid(err)}") from None
    session = await _opened(content, state)
    if result is None:
        return await _computed(state, session, wanted)
    return await _file(state, session, wanted, result)


@_images.delete("/images/{image_id}", status_code=204)
async def _remove_image(state: StateOf, image_id: str) -> Response:
    """Forget an image; one that is not there is forgotten already."""
    state.sessions.remove(image_id)
    return Response(status_code=204)


def _file_of(
    *media_types: str, more: dict[int | str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Options of a route that answers with a file."""
    content: dict[str, Any] = {media_type: {} for media_type in media_types}
    responses = {200: {"content": content}, **problems(415), **(more or {})}
    return {"response_class": Response, "responses": responses}


@_images.head("/images/{image_id}/frames/{index}", include_in_schema=False)
@_images.get(
    "/images/{image_id}/frames/{index}",
    **_file_of("image/png", more={304: {"description": "Not Modified"}}),
)
async def _frame(
    state: StateOf, session: Kept, index: int, request: Request, colour: bool = False
) -> Response:
    """A frame as a grey PNG, or with `colour` as a coloured one where it has colour. It never
    changes: with its `ETag` in `If-None-Match` it is not sent again."""
    tag = f'"{session.id}-{index}{"-colour" if colour else ""}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if 0 <= index < len(session.image) and tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    read = session.picture if colour else session.frame
    content = await state.decode(lambda: png_of(read(index)))
    return Response(content, media_type="image/png", headers=headers)


@_images.post("/images/{image_id}/masks", responses=problems(415))
async def _masks(state: StateOf, session: Kept, request: MaskRequest) -> Masks:
    """The mask of a box, of points, or of a box that points refine; or those of several."""
    return await _computed(state, session, request)


async def _computed(state: _State, session: Session, request: MaskRequest) -> Masks:
    frame = await state.ready_frame(session, request.frame)
    found = await state.compute(partial(state.service.masks, session, request, frame))
    for step in ("encode", "decode", "measure"):
        if found.timings_ms[step]:
            state.metrics.inference_seconds.labels(step).observe(found.timings_ms[step] / 1000)
    return found


def _attachment(content: bytes, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=_TYPES[Path(name).suffix], headers=headers)


async def _file(state: _State, session: Session, request: MaskRequest, name: MaskFile) -> Response:
    needs_pixels = name == "overlay.png"
    frame = await state.ready_frame(session, request.frame, needs_pixels=needs_pixels)
    work = partial(state.service.mask_file, session, request, frame, name)
    return _attachment(await state.compute(work), name)


@_images.post("/images/{image_id}/proposals", responses=problems(415))
async def _propose(state: StateOf, session: Kept, request: ProposalRequest) -> Proposals:
    """Where the model suggests lesions without a prompt; a person has to look at each."""
    frame = await state.ready_frame(session, request.frame)
    return await state.compute(partial(state.service.propose, session, request, frame))


@_images.post("/images/{image_id}/track", **_file_of("application/x-ndjson"))
async def _track(
    state: StateOf, session: Kept, request: TrackRequest, http: Request
) -> StreamingResponse:
    """Follow a lesion: a JSON document per line and frame, as soon as it is there; an `{"error":
    "..."}` ends it."""
    indices = state.service.frames_to_track(session, request)
    decoded = deque[CineFrame]()

    async def decode(index: int) -> None:
        ready = await state.ready_frame(session, index, needs_pixels=True)
        assert ready.pixels is not None
        decoded.append(CineFrame(index, session.image.seconds_of(index), ready.pixels))

    await decode(request.frame)
    frames = iter(decoded.popleft, None)  # each is there before it is asked for
    documents = await state.compute(partial(state.service.track, session, request, frames))

    async def lines() -> AsyncIterator[str]:
        # Frame by frame, so that prompts of others come in between. The status is sent already.
        try:
            for index in indices:
                yield json.dumps(await state.compute(partial(next, documents))) + "\n"
                if index + 1 in indices:
                    await decode(index + 1)
        except SamusEdgeError as err:
            yield json.dumps({"error": str(err)}) + "\n"
        except HTTPException as err:  # a frame that was not decoded in time
            yield json.dumps({"error": err.detail}) + "\n"
        except Exception:  # noqa: BLE001  # as in `_guard`
            state.metrics.count_bug(http.scope["route"].path)
            yield json.dumps({"error": BUG}) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@_images.get("/images/{image_id}/track/{name}", responses=problems(415))
async def _track_file(
    state: StateOf,
    session: Kept,
    name: TrackFile,
    until: Annotated[int | None, Query(ge=0, le=10_000_000)] = None,
) -> Response:
    """What came of the lesion that was last followed, up to where it was stopped, or to the frame
    `until`."""
    content = await state.save(partial(state.service.track_file, session, name, until))
    return _attachment(content, name)


@_images.post("/images/{image_id}/{name}", **_file_of(*_MASK_TYPES))
async def _mask_file(
    state: StateOf, session: Kept, name: MaskFile, request: MaskRequest
) -> Response:
    """The masks of the same prompts as a file: a PNG (of several, labels from 1), a picture for
    people, arrays (NPZ), a table (CSV), COCO, a DICOM segmentation, or the DICOM report that refers
    to that."""
    return await _file(state, session, request, name)


@_images.websocket("/live")
async def _live(state: StateOf, websocket: WebSocket) -> None:
    """Frames in, masks out; see `serve_live`."""
    # A browser that offers subprotocols gives up unless one of them is taken.
    offered = websocket.scope.get("subprotocols") or [None]
    await websocket.accept(subprotocol=offered[0])
    if state.live >= state.settings.max_live:
        # Said when it is open: before, neither code nor reason gets through.
        await websocket.close(1013, "too many live connections; try again later.")
        return
    state.live += 1
    try:
        segmenter, limit = state.service.segmenter, state.settings.max_request_bytes
        client = websocket.client.host if websocket.client else "unknown"
        wait_seconds = partial(state.rates.wait_seconds, client)
        await serve_live(
            websocket, segmenter, state.metrics, limit, wait_seconds, state.decode_live
        )
    finally:
        state.live -= 1
