"""Tokens, rates, sizes, sessions and hosts."""

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.exceptions import HTTPException

from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.cine.cine_source import FileFrames
from samus_edge.server.guard import RateLimit
from samus_edge.server.observability import JsonFormatter
from samus_edge.server.segmentation_service import png_of
from samus_edge.server.session import Session, SessionStore
from samus_edge.server.settings import ServerSettings, is_loopback

ClientOf = Callable[..., Any]


def test_other_machines_need_a_token(client_of: ClientOf) -> None:
    with pytest.raises(ValueError, match="a token is needed"):
        ServerSettings(host="0.0.0.0")
    settings = ServerSettings(host="0.0.0.0", token="x")
    assert "token" not in repr(settings)
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "cart")))
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
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 421
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


def square(side: int) -> Session:
    """An image of side x side bytes."""
    return Session(FileFrames("x", "image", [np.zeros((side, side), np.uint8)]))


def test_the_image_used_longest_ago_goes_first() -> None:
    now = [0.0]
    store = SessionStore(2, 10.0, clock=lambda: now[0])
    first, second = store.add(square(8)), store.add(square(8))
    store.get(first.id)
    third = store.add(square(8))
    assert len(store) == 2
    now[0] = 9.0
    store.get(third.id)
    now[0] = 11.0
    for gone in (second, first):  # one too many, then too old
        with pytest.raises(HTTPException, match="no such image"):
            store.get(gone.id)
    assert store.get(third.id) is third
    store.clear()
    assert len(store) == 0


def test_images_share_a_memory() -> None:
    store = SessionStore(10, 10.0, max_bytes=250)
    first = store.add(square(10))
    store.add(square(10))
    assert len(store) == 2
    store.add(square(10))
    assert len(store) == 2
    with pytest.raises(HTTPException):
        store.get(first.id)
    kept = store.add(square(30))  # more than all may hold, and the newest
    assert len(store) == 1
    assert store.get(kept.id) is kept


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
