"""`samus-edge serve` as a process."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from samus_edge.cli.app import main
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.server.segmentation_service import png_of

Serve = Callable[..., Any]


def post(address: str, path: str, content: bytes, media_type: str) -> Any:
    request = urllib.request.Request(
        address + path, content, {"Content-Type": media_type}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


def test_it_finishes_what_is_under_way_when_it_is_stopped(serve: Serve) -> None:
    frame = load_check_frames()[1]
    with serve() as (address, process):
        content = png_of(frame.image)
        image = json.loads(post(address, "/v1/images", content, "application/octet-stream"))
        answers: list[Any] = []

        def ask() -> None:
            body = json.dumps({"box": [float(value) for value in frame.box]}).encode()
            path = f"/v1/images/{image['id']}/overlay.png"
            with suppress(urllib.error.URLError):  # what comes after the stop is not answered
                while True:
                    answers.append(post(address, path, body, "application/json"))

        thread = threading.Thread(target=ask)
        thread.start()
        while not answers:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        thread.join(30)
        assert process.returncode in (0, -signal.SIGTERM)
    assert all(answer == answers[0] for answer in answers)  # whole, every one
    assert answers[0].startswith(b"\x89PNG")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert any(line["event"] == "stopped" for line in lines)
    assert all(set(line) >= {"time", "level", "event"} for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--host", "0.0.0.0"), 2, "a token is needed"),
        (("--threads", "x"), 2, "'x'"),
        (("--backend", "gpu"), 2, "got 'gpu'"),
        (("--precision", "fp8"), 2, "got 'fp8'"),
        (("--port", "99999"), 2, "99999"),
        (("--bundle", "nowhere"), 1, "nowhere does not exist"),
        (("--backend", "onnxruntime-cuda"), 1, "has no execution provider for CUDA"),
    ],
)
def test_bad_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.delenv("SAMUS_EDGE_TOKEN", raising=False)
    assert main(["serve", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_port_that_is_in_use_is_a_sentence_and_exit_code_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-I", "-m", "samus_edge", "serve", "--threads", "1"]
        done = subprocess.run(
            [*command, "--port", str(taken.getsockname()[1])],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "choose one with --port" in done.stderr.splitlines()[-1]
