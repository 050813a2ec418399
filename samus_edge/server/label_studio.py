"""A machine learning backend of Label Studio: clicks and rectangles in, brush masks out.

Images are fetched from Label Studio and from servers that were named when the service was started;
a request makes it look nowhere else.
"""

import http.client
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Protocol, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from samus_edge.errors import BadArgumentError
from samus_edge.jobs.record import Box, Point, predict_prompted
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.server.decoding import Decoders
from samus_edge.server.problem import problems
from samus_edge.server.segmentation_service import SegmentationService
from samus_edge.server.session import ReadyFrame, Session, SessionStore

__all__ = ["ImageFetcher", "brush_rle", "label_studio_routes"]

Result = TypeVar("Result")
_PORTS = {"http": 80, "https": 443}
_MAX_REDIRECTS = 3
_FETCH_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16
_MAX_CONFIG = 1 << 18
_MAX_ADDRESSES = 256
_RLE_SIZES = (3, 4, 8, 16)


class Service(Protocol):
    """What the routes need of the service that they are a part of."""

    service: SegmentationService
    sessions: SessionStore
    decoders: Decoders

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run inference, when it is its turn."""
        ...

    async def decode(self, work: Callable[[], Result]) -> Result:
        """Decode a file, in a bounded time."""
        ...

    async def ready_frame(self, session: Session, index: int) -> ReadyFrame:
        """A frame to compute on, which is decoded."""
        ...


class ImageFetcher:
    """Fetches images from the places that were named, and from nowhere else.

    Args:
        places: URLs of Label Studio and of further servers, of which scheme, host and port count.
            Label Studio may have a private address; the others may not.
        key: Key of Label Studio's interface, which is sent to it alone; None for none.
        max_bytes: Size of an image's file.
    """

    def __init__(self, places: Sequence[str], key: str | None, max_bytes: int) -> None:
        self._key, self._max_bytes = key, max_bytes
        self._home = places[0]
        self._origins = [_origin(_absolute("", place)) for place in places]
        for place, origin in zip(places, self._origins, strict=True):
            if origin is None:
                raise BadArgumentError(
                    f"{place!r} is no place to fetch images from. Expected http:// or https://, a "
                    "host and perhaps a port, as in http://127.0.0.1:8080"
                )

    def fetch(self, address: str) -> bytes:
        """The content of an image.

        Args:
            address: A URL, or a path of Label Studio.

        Raises:
            HTTPException: 403 if it is not in a named place, 413 if it is too large, 502 if it does
                not come.
        """
        end = time.monotonic() + _FETCH_SECONDS
        url = _absolute(self._home, address)
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                content, target = self._ask(url, end)
                if target is None:
                    return content
                url = _absolute(url.geturl(), target)
        except (OSError, http.client.HTTPException) as err:
            raise HTTPException(
                502, f"the image did not come from its server ({type(err).__name__})."
            ) from None
        raise HTTPException(502, f"the image was redirected more than {_MAX_REDIRECTS} times.")

    def _ask(self, url: SplitResult, end: float) -> tuple[bytes, str | None]:
        """The content, or where it is instead."""
        origin = _origin(url)
        if origin is None or origin not in self._origins:
            raise HTTPException(
                403,
                "the image is on a server from which none are fetched. Start the service with "
                "another --label-studio URL for it.",
            )
        scheme, host, port = origin
        is_home = origin == self._origins[0]
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        connection = kind(host, port, timeout=max(0.1, min(10.0, end - time.monotonic())))
        try:
            connection.connect()
            # Of the connection that is there: asked before, a name server could say one thing to us
            # and another to the connection.
            if not (is_home or ip_address(connection.sock.getpeername()[0]).is_global):
                raise HTTPException(403, "the image's server has a private address.")
            headers = {"User-Agent": "samus-edge", "Accept-Encoding": "identity"}
            if is_home and self._key is not None:
                headers["Authorization"] = f"Token {self._key}"
            query = f"?{url.query}" if url.query else ""
            connection.request("GET", (url.path or "/") + query, headers=headers)
            answer = connection.getresponse()
            if 300 <= answer.status < 400:
                return b"", answer.getheader("Location", "")
            if answer.status != HTTPStatus.OK:
                raise HTTPException(502, f"the image's server answered {answer.status}.")
            content = bytearray()
            while chunk := answer.read1(_CHUNK_BYTES):
                content += chunk
                if len(content) > self._max_bytes:
                    raise HTTPException(
                        413, f"the image's file is larger than {self._max_bytes} bytes."
                    )
                if time.monotonic() > end:
                    raise HTTPException(502, "the image's server is too slow.")
            return bytes(content), None
        finally:
            connection.close()


def _absolute(base: str, address: str) -> SplitResult:
    try:
        return urlsplit(urljoin(base, address))
    except ValueError:
        return urlsplit("")  # which is nowhere


def _origin(parts: SplitResult) -> tuple[str, str, int] | None:
    """Scheme, host and port; None of what is no plain web address."""
    try:
        port, host = parts.port, parts.hostname
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not host or "@" in parts.netloc:
        return None
    return parts.scheme, host, port or _PORTS[parts.scheme]


Percent = Annotated[float, Field(ge=-100, le=200, allow_inf_nan=False)]


class _Value(BaseModel):
    """Where a region is, in per cent of the image."""

    x: Percent
    y: Percent
    width: Percent = 0
    height: Percent = 0
    rotation: Literal[0] = 0
    keypointlabels: list[str] = []
    rectanglelabels: list[str] = []


class _Region(BaseModel):
    type: Literal["keypointlabels", "rectanglelabels", "keypoint", "rectangle"]
    value: _Value
    is_positive: bool = True
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: Literal[0] = 0


class _Context(BaseModel):
    result: Annotated[list[_Region], Field(max_length=64)] = []


class _Parameters(BaseModel):
    context: _Context | None = None


class _Task(BaseModel):
    data: dict[str, Any]


class _Predict(BaseModel):
    tasks: Annotated[list[_Task], Field(max_length=1000)]
    label_config: Annotated[str, Field(max_length=_MAX_CONFIG)]
    params: _Parameters | None = None


def label_studio_routes(state: Service, fetcher: ImageFetcher) -> APIRouter:
    """The routes that Label Studio calls, under /v1/label-studio."""
    routes = APIRouter(
        prefix="/v1/label-studio",
        tags=["Label Studio"],
        responses=problems(400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 502, 503),
    )
    manifest = state.service.segmenter.bundle.manifest
    version = f"{manifest.name} {manifest.weights_sha256[:12]}"
    kept: dict[str, str] = {}  # sessions by address
    fetching = CapacityLimiter(4)

    async def session_of(address: str) -> Session:
        try:
            return state.sessions.get(kept.get(address, ""))
        except HTTPException:
            content = await to_thread.run_sync(fetcher.fetch, address, limiter=fetching)
        opened = await state.decode(
            lambda: Session(state.decoders.open(content, "the image", 0), content)
        )
        if len(kept) >= _MAX_ADDRESSES:
            kept.pop(next(iter(kept)))
        kept[address] = state.sessions.add(opened).id
        return opened

    @routes.get("/health")
    async def _health() -> dict[str, str]:
        """Whether the backend is there."""
        return {"status": "UP", "model_class": "SAMUS-HF"}

    @routes.post("/setup")
    async def _setup() -> dict[str, str]:
        """Which model it is; what the request says is not needed, its addresses and keys least."""
        return {"model_version": version}

    @routes.post("/predict")
    async def _predict(request: _Predict) -> dict[str, Any]:
        """A brush mask for each rectangle, or for all clicks; without a prompt what the bundle
        proposes, if it can."""
        context = request.params.context if request.params else None
        regions = context.result if context else []
        if regions and len(request.tasks) != 1:
            raise HTTPException(422, "a prompt belongs to one task; one was expected.")
        results = []
        for task in request.tasks:
            masks: list[dict[str, Any]] = []
            if regions or state.service.segmenter.can_propose:
                brush = _Brush(request.label_config)
                address = task.data.get(brush.key)
                if not isinstance(address, str):
                    raise HTTPException(422, f"the task's data has no address in {brush.key!r}.")
                session = await session_of(address)
                frame = await state.ready_frame(session, 0)
                work = partial(_masks, state.service.segmenter, session, frame, regions, brush)
                masks = await state.compute(work)
            score = min((each["score"] for each in masks), default=0.0)
            results.append({"result": masks, "score": score, "model_version": version})
        return {"results": results, "model_version": version}

    return routes


class _Brush:
    """The brush of a labelling configuration, and the image that it paints on."""

    def __init__(self, label_config: str) -> None:
        if "<!" in label_config.replace("<!--", ""):
            raise HTTPException(422, "label_config declares a document type, which none needs.")
        try:
            tags = list(ElementTree.fromstring(label_config).iter())
        except ElementTree.ParseError as err:
            raise HTTPException(422, f"label_config is not XML ({err}).") from None
        images = {tag.get("name"): tag.get("value", "") for tag in tags if tag.tag == "Image"}
        for tag in tags:
            value = images.get(tag.get("toName"), "")
            if tag.tag == "BrushLabels" and value.startswith("$"):
                self.name, self.image, self.key = tag.get("name"), tag.get("toName"), value[1:]
                self.labels = [each.get("value", "") for each in tag if each.tag == "Label"]
                return
        raise HTTPException(
            422,
            'the project has no <BrushLabels> for an <Image value="$...">, and masks need one. Add '
            "it to the labelling interface.",
        )

    def label(self, region: _Region | None) -> str:
        """The label of a region's mask: the region's own, where the brush has it."""
        own = [*region.value.keypointlabels, *region.value.rectanglelabels] if region else []
        return next((each for each in (*own, *self.labels) if each in self.labels), "")


def _masks(
    segmenter: Segmenter,
    session: Session,
    frame: ReadyFrame,
    regions: Sequence[_Region],
    brush: _Brush,
) -> list[dict[str, Any]]:
    """The masks of prompts, or of what is proposed, as Label Studio stores them."""
    height, width = session.image.original_hw
    for region in regions:
        stated = (region.original_height or height, region.original_width or width)
        if stated != (height, width):
            raise HTTPException(
                422,
                f"Label Studio sees an image of {stated[1]}x{stated[0]} pixels, and its file has "
                f"{width}x{height}.",
            )
    boxes: list[Box] = []
    points: list[Point] = []
    for region in regions:
        # From per cent of the width, 0 at the left edge, to pixels with centres at integers.
        x, y = region.value.x / 100 * width - 0.5, region.value.y / 100 * height - 0.5
        if region.type.startswith("rectangle"):
            right = x + region.value.width / 100 * width
            boxes.append((x, y, right, y + region.value.height / 100 * height))
        else:
            x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
            points.append((x, y, int(region.is_positive)))
    embedding, _ = session.embedding(segmenter, frame)
    prediction = (
        predict_prompted(segmenter, embedding, boxes, points)
        if regions
        else segmenter.propose(embedding)
    )
    of_boxes = [region for region in regions if region.type.startswith("rectangle")]
    labels = list(map(brush.label, of_boxes or regions[:1])) or [brush.label(None)] * len(
        prediction.masks
    )
    return [
        {
            "id": uuid.uuid4().hex[:10],
            "from_name": brush.name,
            "to_name": brush.image,
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": brush_rle(mask[0]),
                "brushlabels": [label],
            },
            "score": float(np.clip(score[0], 0, 1)),
            "readonly": False,
        }
        for mask, score, label in zip(
            prediction.masks, prediction.iou_predictions, labels, strict=True
        )
    ]


def brush_rle(mask: npt.NDArray[np.bool_]) -> list[int]:
    """A mask, (H, W), as Label Studio's brush keeps it: run lengths of RGBA bytes, all four alike.

    Source: @thi.ng/rle-pack, which Label Studio decodes with. Bits: the number of bytes in 32,
    their size less 1 in 5, four sizes of run lengths less 1 in 4 each; then runs: 1, which of the
    sizes in 2, the length less 1, the byte.
    """
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    bits = [f"{4 * flat.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in _RLE_SIZES)]
    for start, length in zip(starts, 4 * np.diff(starts), strict=False):
        left, value = int(length), 255 if flat[start] else 0
        while left:
            run = min(left, 1 << _RLE_SIZES[-1])
            index = next(at for at, size in enumerate(_RLE_SIZES) if run <= 1 << size)
            bits.append(f"1{index:02b}{run - 1:0{_RLE_SIZES[index]}b}{value:08b}")
            left -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
