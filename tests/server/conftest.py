"""A service in this process, and one in a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from samus_edge.runtime import Segmenter
from samus_edge.server.app import create_app
from samus_edge.server.settings import ServerSettings

START_SECONDS = 60


@pytest.fixture(scope="session")
def segmenter() -> Iterator[Segmenter]:
    """The default bundle on one thread."""
    with Segmenter.load(threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def client(segmenter: Segmenter) -> Iterator[TestClient]:
    """Of a service with the default settings but for the rate."""
    app = create_app(ServerSettings(requests_per_second=0), segmenter)
    with TestClient(app, base_url="http://localhost") as opened:
        yield opened


@pytest.fixture
def client_of(segmenter: Segmenter) -> Callable[..., Any]:
    """Makes clients of services with other settings; use them in with statements."""

    def make(**settings: Any) -> TestClient:
        return TestClient(
            create_app(ServerSettings(**settings), segmenter),
            base_url="http://localhost",
            raise_server_exceptions=False,
        )

    return make


@pytest.fixture
def example(client: TestClient) -> dict[str, Any]:
    """An image that the service keeps."""
    response = client.post("/v1/images", params={"example": "benign_256.png"})
    assert response.status_code == 201
    found: dict[str, Any] = response.json()
    return found


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`samus-edge serve` in a process of its own; its address and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-I", "-m", "samus_edge.cli.app", "serve", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--threads", "2", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{address}/readyz", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end, "the service did not start"
                time.sleep(0.1)
        yield address, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """Starts a service in a process of its own."""
    return running


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the page go; SAMUS_EDGE_SCREENSHOTS names another folder."""
    named = os.environ.get("SAMUS_EDGE_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
