"""Live frames over a WebSocket."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.server.decoding import Decoders
from samus_edge.server.segmentation_service import png_of

ClientOf = Callable[..., Any]
WS = "ws://localhost"


def test_frames_in_masks_out(client: TestClient) -> None:
    frame = load_check_frames()[1]
    content = png_of(frame.image)
    with client.websocket_connect(f"{WS}/v1/live") as live:
        live.send_bytes(content)
        first = json.loads(live.receive_text())
        assert (first["number"], first["state"]) == (0, None)
        live.send_text(json.dumps({"pixel_mm": 0.1}))
        live.send_text(json.dumps({"mark": [float(value) for value in frame.box]}))
        live.send_bytes(content)
        second = json.loads(live.receive_text())
        assert (second["number"], second["state"]) == (1, "tracking")
        assert second["measurements"]["unit"] == "mm"
        assert len(second["contours"][0]) > 5
        live.send_bytes(content)
        assert json.loads(live.receive_text())["state"] == "tracking"
        live.send_text(json.dumps({"unmark": True}))
        live.send_bytes(content)
        assert json.loads(live.receive_text())["state"] is None
    assert 'samus_edge_live_frames_total{what="done"}' in client.get("/metrics").text


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[1]",
        "{}",
        '{"mark": [1, 2, 3]}',
        '{"mark": [1, 2, 3, true]}',
        '{"pixel_mm": -1}',
        b"no image",
    ],
)
def test_mistakes_are_said_and_it_goes_on(client: TestClient, message: str | bytes) -> None:
    with client.websocket_connect(f"{WS}/v1/live") as live:
        if isinstance(message, bytes):
            live.send_bytes(message)
        else:
            live.send_text(message)
        assert json.loads(live.receive_text())["error"]
        live.send_bytes(png_of(load_check_frames()[0].image))
        assert json.loads(live.receive_text())["number"] == 0


def refused(client: TestClient, path: str = "/v1/live", **headers: str) -> int:
    """The code with which a connection is closed."""
    with (
        pytest.raises(WebSocketDisconnect) as caught,
        client.websocket_connect(WS + path, headers=headers),
    ):
        pass
    code: int = caught.value.code
    return code


def test_pages_of_other_sites_and_strangers_are_refused(client_of: ClientOf) -> None:
    with client_of(token="secret") as client:
        assert refused(client) == 1008
        assert refused(client, "/v1/live?token=secret") == 1008  # addresses end in logs
        bearer = {"authorization": "Bearer secret"}
        assert refused(client, **bearer, origin="http://evil.example") == 1008
        assert refused(client, **bearer, host="evil.example") == 1008
        own = {**bearer, "origin": "http://localhost"}
        with client.websocket_connect(f"{WS}/v1/live", headers=own):
            pass
        # As a browser gives it, which can set no header: with the letters that are allowed there.
        offered = ["samus-edge.bearer." + b"secret".hex()]
        with client.websocket_connect(f"{WS}/v1/live", subprotocols=offered) as live:
            assert live.accepted_subprotocol == offered[0]


def test_there_is_a_limit(client_of: ClientOf) -> None:
    with client_of(max_live=1) as client, client.websocket_connect(f"{WS}/v1/live"):
        with (
            client.websocket_connect(f"{WS}/v1/live") as live,
            pytest.raises(WebSocketDisconnect) as caught,
        ):
            live.receive_text()
        assert caught.value.code == 1013
        assert "too many" in caught.value.reason


def scans(side: int, count: int) -> bytes:
    """A small progressive JPEG, whose last scan comes again and again."""
    content = io.BytesIO()
    Image.new("L", (side, side), 90).save(content, "JPEG", progressive=True)
    whole = content.getvalue()
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * count + whole[-2:]


def test_a_frame_that_takes_too_long_ends_its_connection_alone(client_of: ClientOf) -> None:
    slow, quick = scans(4000, 500), png_of(load_check_frames()[0].image)
    assert len(slow) < 200_000
    with client_of(decode_seconds=1) as client, client.websocket_connect(f"{WS}/v1/live") as bad:
        with client.websocket_connect(f"{WS}/v1/live") as good:
            good.send_bytes(quick)
            assert json.loads(good.receive_text())["number"] == 0
            bad.send_bytes(slow)
            good.send_bytes(quick)
            assert json.loads(good.receive_text())["number"] == 1
        assert "not decoded in 1 seconds" in json.loads(bad.receive_text())["error"]
        with pytest.raises(WebSocketDisconnect) as caught:
            bad.receive_text()
        assert caught.value.code == 1008
        assert "not decoded in 1 seconds" in caught.value.reason


@pytest.mark.parametrize("message", [b"x" * 100_001, '{"mark": "' + "x" * 5000 + '"}'])
def test_too_large_messages_end_the_connection(client_of: ClientOf, message: bytes | str) -> None:
    with (
        client_of(max_request_bytes=100_000) as client,
        client.websocket_connect(f"{WS}/v1/live") as live,
    ):
        live.send(
            {
                "type": "websocket.receive",
                "bytes" if isinstance(message, bytes) else "text": message,
            }
        )
        assert " has more than " in json.loads(live.receive_text())["error"]
        with pytest.raises(WebSocketDisconnect) as caught:
            live.receive_text()
        assert caught.value.code == 1009


def test_a_bug_ends_the_connection_and_says_nothing_of_itself(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(Decoders, "frame", fail)
    with client.websocket_connect(f"{WS}/v1/live") as live:
        live.send_bytes(b"x")
        error = json.loads(live.receive_text())["error"]
        assert "this is a bug" in error
        assert "secret" not in error
        with pytest.raises(WebSocketDisconnect):
            live.receive_text()
    assert 'unhandled_errors_total{route="/v1/live"} 1.0' in client.get("/metrics").text
