"""What an attacker or a careless proxy sends, over real sockets where it matters."""

import http.client
import io
import json
import logging
import multiprocessing
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from samus_edge.runtime import Segmenter
from samus_edge.server.app import create_app
from samus_edge.server.decoding import Decoders
from samus_edge.server.guard import TOKEN_COOKIE, patient_protocol
from samus_edge.server.settings import ServerSettings

ClientOf = Callable[..., Any]
PROBLEM = "application/problem+json"


def png(side: int = 8) -> bytes:
    content = io.BytesIO()
    Image.new("L", (side, side), 90).save(content, "PNG")
    return content.getvalue()


def slow_tiff(side: int, pages: int) -> bytes:
    """A small file with many pages of 16 bits, all of the same deflated zeros."""
    strip = zlib.compress(bytes(2 * side * side), 9)
    content = struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip
    tags = {256: side, 257: side, 258: 16, 259: 8, 262: 1, 273: 8, 277: 1, 278: side}
    for page in range(1, pages + 1):
        entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
        entries.append(struct.pack("<HHII", 279, 4, 1, len(strip)))
        after = len(content) + 2 + 12 * len(entries) + 4 if page < pages else 0
        content += struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", after)
    return content


@contextmanager
def listening(segmenter: Segmenter, **settings: Any) -> Iterator[tuple[str, int]]:
    """A service on a socket, as the command starts it; its address and port."""
    chosen = ServerSettings(requests_per_second=0, **settings)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(chosen, segmenter),
            port=0,
            http=patient_protocol(chosen.header_seconds),
            log_config=None,
            access_log=False,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join(30)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1234"},  # another program of this machine
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/images"), ("DELETE", "/v1/images/x")])
def test_pages_of_other_sites_change_nothing(
    client: TestClient, headers: dict[str, str], method: str, path: str
) -> None:
    response = client.request(method, path, content=png(), headers=headers)
    assert response.status_code == 403
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_the_own_page_and_other_programs_may(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/v1/images", content=png(), headers=headers).status_code == 201


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_what_a_form_of_another_site_can_send_is_no_image(client: TestClient, kind: str) -> None:
    response = client.post("/v1/images", content=png(), headers={"Content-Type": kind})
    assert response.status_code == 415
    assert "Content-Type: application/octet-stream" in response.json()["detail"]


def test_json_has_to_say_that_it_is(client: TestClient, example: dict[str, Any]) -> None:
    body = json.dumps({"box": [1, 1, 9, 9]})
    for path in ("masks", "track", "mask.png"):
        response = client.post(
            f"/v1/images/{example['id']}/{path}",
            content=body,
            headers={"Content-Type": "text/plain"},
        )
        assert response.status_code in (415, 422)


@pytest.mark.parametrize(
    "prompt",
    [
        {"box": [True, 1, 9, 9]},
        {"box": ["1", 1, 9, 9]},
        {"points": [{"x": True, "y": 1}]},
        {"frame": True, "box": [1, 1, 9, 9]},
        {"box": [1, 1, 9, 9], "pixel_mm": True},
    ],
)
def test_true_is_no_number(
    client: TestClient, example: dict[str, Any], prompt: dict[str, Any]
) -> None:
    path = f"/v1/images/{example['id']}/masks"
    assert client.post(path, json=prompt).status_code == 422
    assert client.post(path, json={"box": [1, 1, 90, 90.5]}).status_code == 200


def test_wrong_host_names_are_problems_that_are_logged_and_counted(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "samus_edge.server"), client_of() as client:
        response = client.get("/v1/info", headers={"Host": "evil.example"})
        assert response.status_code == 421
        assert response.headers["content-type"] == PROBLEM
        assert "--allow-host" in response.json()["detail"]
        assert 'status="421"' in client.get("/metrics").text
    assert any(getattr(record, "status", 0) == 421 for record in caplog.records)


@pytest.mark.parametrize(
    ("host", "status"),
    [("192.168.1.7:8000", 401), ("[fe80::1]:8000", 401), ("rebound.example", 421)],
)
def test_on_all_addresses_it_is_reached_by_each(
    client_of: ClientOf, host: str, status: int
) -> None:
    """Whoever names an address was not misled by a name; a name may be pointed anywhere."""
    with client_of(host="0.0.0.0", token="x") as client:
        assert client.get("/v1/info", headers={"Host": host}).status_code == status
    with client_of() as client:
        assert client.get("/v1/info", headers={"Host": host}).status_code == 421


def test_the_token_becomes_a_cookie_that_other_sites_cannot_use(client_of: ClientOf) -> None:
    with client_of(token="open sesame") as client:
        assert client.post("/v1/login", json={"token": "wrong"}).status_code == 401
        assert TOKEN_COOKIE not in client.cookies
        response = client.post("/v1/login", json={"token": "open sesame"})
        assert response.status_code == 204
        set_cookie = response.headers["set-cookie"].lower()
        assert "httponly" in set_cookie and "samesite=strict" in set_cookie
        assert "sesame" not in set_cookie
        assert client.get("/v1/info").status_code == 200  # a second tab, too
        client.cookies.set(TOKEN_COOKIE, "0" * 64)
        client.cookies.delete(TOKEN_COOKIE, domain="localhost.local")
        assert client.get("/v1/info").status_code == 401


def test_labels_of_metrics_are_few(client: TestClient) -> None:
    for number in range(20):
        client.request(f"METHOD{number}", "/v1/info")
        client.get(f"/nowhere/{number}")
    text = client.get("/metrics").text
    assert "METHOD" not in text and "nowhere" not in text
    for name in ("samus_edge_build_info{", "process_resident_memory_bytes", "_in_flight 1.0"):
        assert name in text
    assert "samus_edge_session_bytes" in text and "samus_edge_session_evictions_total" in text


def test_a_bug_is_counted_and_logged_once_with_the_security_headers(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("PatientName: Doe")

    monkeypatch.setattr(Decoders, "open", fail)
    with caplog.at_level(logging.INFO), client_of() as client:
        response = client.post("/v1/images", content=png())
        assert response.status_code == 500
        assert "Doe" not in response.text
        assert response.headers["content-security-policy"].startswith("default-src 'self'")
        assert "samus_edge_unhandled_errors_total" in client.get("/metrics").text
    assert sum(record.exc_info is not None for record in caplog.records) == 1


def deflated_bomb() -> bytes:
    """A DICOM file of 64 kB whose deflated elements are 64 MB: one of a maker, with zeros."""
    import pydicom

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3")
    dataset.SOPClassUID = pydicom.uid.UltrasoundImageStorage
    dataset.SOPInstanceUID = pydicom.uid.UID("1.2.3")
    dataset.Rows = dataset.Columns = 16
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(256)
    block = dataset.private_block(0x0009, "MAKER", create=True)
    block.add_new(0x01, "OB", bytes(64 << 20))
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def test_elements_that_nobody_needs_count_as_memory(client_of: ClientOf) -> None:
    pytest.importorskip("pydicom")
    bomb = deflated_bomb()
    assert len(bomb) < 200_000
    with client_of(max_session_bytes=150 << 20) as client:
        ids = [client.post("/v1/images", content=bomb).json()["id"] for _ in range(4)]
        found = [client.get(f"/v1/images/{each}/frames/0").status_code for each in ids]
        assert found == [404, 404, 200, 200]
        text = client.get("/metrics").text
        assert 'evictions_total{reason="memory"} 2.0' in text


def test_images_that_nobody_uses_are_gone_within_seconds(client_of: ClientOf) -> None:
    with client_of(session_seconds=0.3, sweep_seconds=0.1) as client:
        client.post("/v1/images", content=png())
        state = client.app.state.service
        assert len(state.sessions._sessions) == 1
        end = time.monotonic() + 5
        while state.sessions._sessions:  # nobody asks in between
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_file_that_takes_too_long_is_ended_and_its_slot_is_free(client_of: ClientOf) -> None:
    others = multiprocessing.active_children()
    content = slow_tiff(4000, pages=200)
    assert len(content) < 100_000
    with client_of(decode_slots=1, decode_seconds=1) as client:
        assert client.post("/v1/images", content=png()).status_code == 201
        (process,) = set(multiprocessing.active_children()).difference(others)
        begun = time.monotonic()
        slow = client.post("/v1/images", content=content)
        assert (slow.status_code, slow.headers["content-type"]) == (503, PROBLEM)
        assert "not decoded in 1 seconds" in slow.json()["detail"]
        assert time.monotonic() - begun < 5
        assert process not in multiprocessing.active_children()
        assert client.post("/v1/images", content=png()).status_code == 201
        (process,) = set(multiprocessing.active_children()).difference(others)
    assert process not in multiprocessing.active_children()  # nor does one outlive the service


def test_half_open_connections_are_dropped_and_others_are_served(segmenter: Segmenter) -> None:
    with listening(segmenter, header_seconds=1.0) as (host, port):
        half_open = []
        for _ in range(500):
            connection = socket.create_connection((host, port), 5)
            connection.sendall(b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            half_open.append(connection)
        with closing(http.client.HTTPConnection(host, port, timeout=5)) as good:
            good.request("GET", "/healthz", headers={"Host": "localhost"})
            assert good.getresponse().status == 200
        time.sleep(0.5)
        for connection in half_open:
            connection.sendall(b"x")  # a byte now and then does not help
        dropped = 0
        for connection in half_open:
            connection.settimeout(1.5)
            try:
                dropped += connection.recv(1) == b""
            except TimeoutError:
                break
            except OSError:
                dropped += 1
            connection.close()
        assert dropped == 500


def test_a_body_that_does_not_come_is_not_waited_for(segmenter: Segmenter) -> None:
    with listening(segmenter, body_seconds=0.5) as (host, port):
        for path, kind in (("/v1/images", "image/png"), ("/v1/login", "application/json")):
            connection = socket.create_connection((host, port), 5)
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
                "Content-Length: 100\r\n\r\nabc".encode()
            )
            begun = time.monotonic()
            answer = connection.recv(1000)
            assert time.monotonic() - begun < 3
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            connection.close()


def test_all_that_comes_in_at_once_is_bounded(segmenter: Segmenter) -> None:
    with listening(segmenter, max_request_bytes=1000, max_incoming_bytes=1000) as (host, port):

        def send(content: bytes) -> int:
            with closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
                headers = {"Host": "localhost", "Content-Type": "image/png"}
                connection.request("POST", "/v1/images", content, headers)
                return connection.getresponse().status

        with closing(socket.create_connection((host, port), 5)) as other:
            head = b"Host: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000"
            other.sendall(b"POST /v1/images HTTP/1.1\r\n" + head + b"\r\n\r\n" + b"x" * 900)
            end = time.monotonic() + 10
            while send(b"x" * 200) != 503:  # until the other's bytes are there
                assert time.monotonic() < end
            other.sendall(b"x" * 100)
            assert other.recv(1000).startswith(b"HTTP/1.1 415 ")
        assert send(b"x" * 200) == 415


def json_routes(client: TestClient) -> list[str]:
    """All that take JSON, by the OpenAPI document."""
    image = client.post("/v1/images", params={"example": "benign_256.png"}).json()["id"]
    routes = []
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        body = operations.get("post", {}).get("requestBody", {}).get("content", {})
        if "application/json" in body:
            routes.append(path.replace("{image_id}", image).replace("{name}", "mask.png"))
    return routes


def test_json_is_bounded_before_it_is_parsed(client_of: ClientOf) -> None:
    with client_of(requests_per_second=0, label_studio=("http://127.0.0.1:9",)) as client:
        routes = json_routes(client)
        assert {"/v1/login", "/v1/label-studio/predict"} < set(routes) and len(routes) > 5
        for path in routes:
            headers = {"Content-Type": "application/json"}
            most = 16 if "label-studio" in path else 1
            parts = [b" " * (1 << 20)] * most
            for body in (b"".join(parts) + b"{", iter([*parts, b"{"])):  # with its length, without
                response = client.post(path, content=body, headers=headers)
                assert response.status_code == 413, path
                assert response.headers["content-type"] == PROBLEM
            for deep in (b"[" * 200_000, b'{"box":' * 100_000, b"[" * 900 + b"]" * 900):
                response = client.post(path, content=deep, headers=headers)
                assert response.status_code in (400, 422), path


def test_a_slow_frame_of_one_holds_up_nobody_else(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decoded late is decoded before it is its turn, whatever it is needed for."""
    pages = [Image.new("L", (64, 64), value) for value in (90, 80, 70, 60, 50)]
    content = io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    slow = client.post("/v1/images", content=content.getvalue()).json()["id"]
    other = client.post("/v1/images", params={"example": "benign_256.png"}).json()["id"]
    box = {"box": [8, 8, 40, 40]}
    read, asked, goes_on = Decoders.read, threading.Event(), threading.Event()

    def wait(*arguments: Any, **options: Any) -> Any:
        asked.set()
        assert goes_on.wait(20), "the other request had to wait for it"
        return read(*arguments, **options)

    monkeypatch.setattr(Decoders, "read", wait)
    for page, path in enumerate(("track", "overlay.png", "masks", "proposals"), 1):
        asked.clear()
        goes_on.clear()
        prompt = {"frame": page, **({} if path == "proposals" else box)}
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.post, f"/v1/images/{slow}/{path}", json=prompt)
            assert asked.wait(20)
            assert client.post(f"/v1/images/{other}/masks", json=box).status_code == 200
            goes_on.set()
            assert answer.result().status_code == 200, path


def test_only_a_named_proxy_says_who_asks(serve: Callable[..., Any]) -> None:
    for arguments, statuses in (((), [200, 200, 429]), (("--proxy", "127.0.0.1"), [200] * 3)):
        with serve("--rate", "1", *arguments) as (address, _):
            found = []
            for number in range(3):  # a burst of two
                headers = {"X-Forwarded-For": f"10.0.0.{number}"}
                netloc = urlsplit(address).netloc
                with closing(http.client.HTTPConnection(netloc, timeout=5)) as connection:
                    connection.request("GET", "/v1/examples", headers=headers)
                    found.append(connection.getresponse().status)
            assert found == statuses


def test_what_inflates_is_refused_before_it_does(client: TestClient) -> None:
    packing = zlib.compressobj(1)
    rows = b"".join(packing.compress(bytes(30_000)) for _ in range(30_000)) + packing.flush()
    header = b"\0\0u0\0\0u0\x08\0\0\0\0"  # 30000 x 30000 grey
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )
    response = client.post("/v1/images", content=content)
    assert response.status_code == 415
    assert "30000 x 30000 pixels" in response.json()["detail"]
