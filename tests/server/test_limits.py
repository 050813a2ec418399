"""Tokens, rates, sizes, sessions and hosts."""

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.exceptions import HTTPException

from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.cine import cine_source
from samus_edge.runtime.cine.cine_source import FileFrames, open_frames
from samus_edge.server.app import RateLimit
from samus_edge.server.observability import JsonFormatter
from samus_edge.server.segmentation_service import png_of
from samus_edge.server.session import SessionStore
from samus_edge.server.settings import ServerSettings, is_loopback

ClientOf = Callable[..., Any]


def test_other_machines_need_a_token(client_of: ClientOf) -> None:
    with pytest.raises(ValueError, match="a token is needed"):
        ServerSettings(host="0.0.0.0")
    settings = ServerSettings(host="0.0.0.0", token="x")
    assert "token" not in repr(settings)
    assert [
        is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "10.0.0.1", "cart")
    ] == [
        True,
        True,
        True,
        False,
        False,
    ]
    with client_of(token="open sesame") as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
            response = client.get("/v1/info", headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        good = {"Authorization": "Bearer open sesame"}
        assert client.get("/v1/info", headers=good).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 200


def test_requests_to_other_names_are_refused(client_of: ClientOf) -> None:
    with client_of(allowed_hosts=("cart.local",)) as client:
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 400
        assert client.get("/healthz", headers={"Host": "cart.local"}).status_code == 200


def test_too_many_requests_wait(client_of: ClientOf) -> None:
    with client_of(requests_per_second=0.01, burst=3) as client:
        codes = [client.get("/v1/examples").status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        assert int(client.get("/v1/examples").headers["retry-after"]) > 50
        assert client.get("/healthz").status_code == 200


def test_buckets_fill_steadily() -> None:
    now = [0.0]
    limit = RateLimit(2.0, 2, lambda: now[0])
    assert [limit.wait_seconds("a") for _ in range(3)] == [0, 0, 0.5]
    assert limit.wait_seconds("b") == 0
    now[0] = 0.5
    assert limit.wait_seconds("a") == 0
    assert limit.wait_seconds("a") == pytest.approx(0.5)
    assert RateLimit(0, 1).wait_seconds("a") == 0


def test_large_bodies_are_refused_early(client_of: ClientOf) -> None:
    with client_of(max_request_bytes=1000) as client:
        response = client.post("/v1/images", content=b"x" * 1001)
        assert response.status_code == 413
        assert "larger than 1000 bytes" in response.json()["detail"]

        def chunks() -> Any:
            for _ in range(11):
                yield b"x" * 100

        assert client.post("/v1/images", content=chunks()).status_code == 413


def test_the_image_used_longest_ago_goes_first() -> None:
    now = [0.0]
    store = SessionStore(2, 10.0, clock=lambda: now[0])
    image = FileFrames("x", "image", [np.zeros((8, 8), np.uint8)])
    first, second = store.add(image), store.add(image)
    store.get(first.id)
    third = store.add(image)
    assert len(store) == 2
    with pytest.raises(HTTPException, match="no such image"):
        store.get(second.id)
    now[0] = 9.0
    store.get(third.id)
    now[0] = 11.0
    with pytest.raises(HTTPException):
        store.get(first.id)
    assert store.get(third.id) is third
    store.clear()
    assert len(store) == 0


def test_images_share_a_memory() -> None:
    store = SessionStore(10, 10.0, max_bytes=250)
    image = FileFrames("x", "image", [np.zeros((10, 10), np.uint8)])
    assert image.memory_bytes == 100
    first = store.add(image)
    store.add(image)
    assert len(store) == 2
    store.add(image)
    assert len(store) == 2
    with pytest.raises(HTTPException):
        store.get(first.id)
    large = FileFrames("x", "image", [np.zeros((30, 30), np.uint8)])
    kept = store.add(large)
    assert len(store) == 1
    assert store.get(kept.id) is kept


def test_videos_have_a_limit(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from samus_edge.errors import ImageFileError
    from samus_edge.jobs.track_cine import OverlayVideo

    path = tmp_path / "x.avi"
    with OverlayVideo(path, 10) as video:
        for _ in range(5):
            video.write(np.zeros((32, 32, 3), np.uint8))
    content = path.read_bytes()
    for source in (path, content):
        assert len(open_frames(source, "x", max_video_frames=5)) == 5
    with pytest.raises(ImageFileError, match="more than 4 frames"):
        open_frames(content, "x", max_video_frames=4)
    monkeypatch.setattr(cine_source, "MAX_VIDEO_BYTES", 2 * 32 * 32)
    with pytest.raises(ImageFileError, match="0 MB of them"):
        open_frames(content, "x", max_video_frames=5)


def test_the_log_is_json_and_names_no_image(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
) -> None:
    frame = load_check_frames()[0]
    with caplog.at_level(logging.INFO, "samus_edge.server"), client_of() as client:
        image = client.post("/v1/images", content=png_of(frame.image)).json()
        client.get(f"/v1/images/{image['id']}/frames/0")
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    found = next(
        line for line in lines if line.get("route") == "/v1/images/{image_id}/frames/{index}"
    )
    assert (found["event"], found["status"], found["method"]) == ("request", 200, "GET")
    assert found["milliseconds"] > 0
    assert image["id"] not in json.dumps(lines)


def test_exceptions_are_in_one_line() -> None:
    try:
        raise ValueError("x")
    except ValueError:
        import sys

        record = logging.LogRecord("n", logging.ERROR, "p", 1, "event", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: x" in json.loads(line)["exception"]
