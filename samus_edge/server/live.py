"""Live frames over a WebSocket."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from samus_edge.errors import BadArgumentError, SamusEdgeError
from samus_edge.jobs.record import frame_record
from samus_edge.runtime.cine.stream import Stream, StreamResult
from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.server.observability import ServerMetrics
from samus_edge.server.problem import BUG, what_is_invalid
from samus_edge.server.schemas import LiveCommand
from samus_edge.server.segmentation_service import box_of, contours_of

__all__ = ["serve_live"]

_ROUTE = "/v1/live"
_POLL_SECONDS = 0.5
_MAX_COMMAND = 4096  # characters
_UNACCEPTABLE, _TOO_BIG, _BUG = 1008, 1009, 1011  # close codes of RFC 6455
_COMMANDS = (
    'A command must be {"mark": [x1, y1, x2, y2]}, {"unmark": true} or {"pixel_mm": 0.1}, in one '
    "text message."
)


async def serve_live(
    socket: WebSocket,
    segmenter: Segmenter,
    metrics: ServerMetrics,
    max_bytes: int,
    wait_seconds: Callable[[], float],
    decode: Callable[[bytes], Awaitable[GreyFrame]],
) -> None:
    """Serve one accepted connection until it is closed.

    A message that is too large ends it with the code 1009, a frame that takes too long to be
    decoded (an HTTPException of `decode`) with 1008, each with a reason.

    Messages count as requests do: a client that sends too many is read more slowly, so that its
    frames wait in its own queue.

    The client sends frames as binary messages (PNG or JPEG files), and commands as text: `{"mark":
    [x1, y1, x2, y2]}` follows a lesion from the next frame on, `{"unmark": true}` none,
    `{"pixel_mm": 0.1}` sets the size of a pixel. It gets a text message for each frame that was not
    dropped, and `{"error": "..."}` for what it did wrong.
    """
    spacing: list[PixelSpacing | None] = [None]
    with Stream(segmenter) as stream:
        sender = asyncio.create_task(_send(socket, stream, spacing, metrics))
        try:
            while (message := await socket.receive())["type"] != "websocket.disconnect":
                while (wait := wait_seconds()) > 0:
                    await asyncio.sleep(wait)
                try:
                    await _receive(message, stream, spacing, max_bytes, decode)
                except (BadArgumentError, SamusEdgeError) as err:
                    await socket.send_text(json.dumps({"error": str(err)}))
        except WebSocketDisconnect:
            pass
        except HTTPException as err:
            code = _TOO_BIG if err.status_code == 413 else _UNACCEPTABLE
            await _end(socket, code, str(err.detail))
        except Exception:  # noqa: BLE001  # a bug of ours: whatever was not meant for the client
            metrics.count_bug(_ROUTE)
            await _end(socket, _BUG, BUG)
        finally:
            await asyncio.to_thread(stream.close)
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sender
            metrics.live_frames.labels("dropped").inc(stream.statistics().dropped)


async def _end(socket: WebSocket, code: int, error: str) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client may be gone already
        await socket.send_text(json.dumps({"error": error}))
        await socket.close(code, error[:120])


async def _receive(
    message: Any,
    stream: Stream,
    spacing: list[PixelSpacing | None],
    max_bytes: int,
    decode: Callable[[bytes], Awaitable[GreyFrame]],
) -> None:
    content, text = message.get("bytes"), message.get("text") or ""
    if content is not None:
        if len(content) > max_bytes:
            raise HTTPException(413, f"a frame has more than {max_bytes} bytes.")
        stream.submit(await decode(content))
        return
    if len(text) > _MAX_COMMAND:
        raise HTTPException(413, f"a command has more than {_MAX_COMMAND} characters.")
    try:
        command = LiveCommand.model_validate_json(text)
    except ValidationError as err:
        raise BadArgumentError(f"{what_is_invalid(err)}. {_COMMANDS}") from None
    if command.mark is not None:
        stream.mark(box_of(command.mark))
    elif command.unmark:
        stream.unmark()
    elif command.pixel_mm is not None:
        spacing[0] = PixelSpacing.square(command.pixel_mm)
    else:
        raise BadArgumentError(_COMMANDS)


async def _send(
    socket: WebSocket, stream: Stream, spacing: list[PixelSpacing | None], metrics: ServerMetrics
) -> None:
    try:
        while (result := await asyncio.to_thread(_next, stream)) is not None:
            if isinstance(result, StreamResult):
                metrics.live_frames.labels("done").inc()
                text = json.dumps(_document(result, spacing[0]))
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client is gone
                    await socket.send_text(text)
    except SamusEdgeError as err:
        await _end(socket, _BUG, str(err))
    except Exception:  # noqa: BLE001  # as above
        metrics.count_bug(_ROUTE)
        await _end(socket, _BUG, BUG)


def _next(stream: Stream) -> StreamResult | bool | None:
    """A result; True if there is none yet; None at the end."""
    try:
        return stream.result(timeout=_POLL_SECONDS)
    except TimeoutError:
        return True
    except StopIteration:
        return None


def _document(result: StreamResult, spacing: PixelSpacing | None) -> dict[str, Any]:
    tracked = result.tracked
    document = {"number": result.number, "latency_ms": round(result.latency_ms, 2), "state": None}
    if tracked is None:
        return document
    record = frame_record(result.number, None, tracked, result.latency_ms, None, spacing)
    contours = [] if tracked.mask is None else contours_of(tracked.mask)
    return {**document, **record.to_json(), "contours": contours}
