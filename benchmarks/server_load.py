"""Latency and memory of `samus-edge serve` with several clients at once.

`python benchmarks/server_load.py`

The service runs in a process of its own. Each client keeps an image, and asks for masks of boxes
that move a little, one after the other, without a pause: more than people would. Beside prompts on
an image that is encoded already there are new images, which have to be encoded, and files that are
sent, which have to be decoded as well. Memory is that of the service's own process.
"""

import http.client
import json
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.subject import resident_bytes
from samus_edge.benchmarking.turns import Latency
from samus_edge.cli.options import parse_sizes
from samus_edge.runtime.bundle.check_frame import CheckFrame, load_check_frames
from samus_edge.runtime.images.overlay import encode_image

START_SECONDS = 60
KINDS = KEPT, _, UPLOAD = ("prompt on a kept image", "new image and prompt", "upload and prompt")


class Client:
    """One client with a connection that stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer, as JSON.

        Raises:
            RuntimeError: if it is an error.
        """
        kind = "application/json"
        if isinstance(body, bytes):
            content, kind = body, "application/octet-stream"
        else:
            content = b"" if body is None else json.dumps(body).encode()
        self._connection.request(method, path, content, {"Content-Type": kind})
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{response.status}: {text.decode()}")
        return json.loads(text) if text else None


def ask_for_masks(port: int, frame: CheckFrame, seconds: float, kind: str) -> list[float]:
    """Ask for masks for some time; milliseconds of each answer."""
    client, times = Client(port), list[float]()
    path, file = f"/v1/images?example={frame.name}", None
    if kind == UPLOAD:
        path, file = "/v1/images", encode_image(Path(frame.name), frame.image)
    image = client.ask("POST", path, file)["id"]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        box = (frame.box + len(times) % 5).tolist()
        begun = time.perf_counter()
        if kind != KEPT:
            client.ask("DELETE", f"/v1/images/{image}")
            image = client.ask("POST", path, file)["id"]
        client.ask("POST", f"/v1/images/{image}/masks", {"box": box})
        times.append(1000 * (time.perf_counter() - begun))
    return times


def load(port: int, clients: int, seconds: float, kind: str) -> dict[str, Any]:
    """Latency with several clients at once."""
    frames = load_check_frames()
    with ThreadPoolExecutor(clients) as pool:
        jobs = [
            pool.submit(ask_for_masks, port, frames[index % len(frames)], seconds, kind)
            for index in range(clients)
        ]
        latency = Latency.of([value for job in jobs for value in job.result()])
    return {
        "clients": clients,
        "requests": latency.runs,
        **{f"{name}_ms": round(getattr(latency, name), 1) for name in ("p50", "p90", "p99")},
        "per_second": round(latency.runs / seconds, 1),
    }


def wait_until_ready(port: int) -> None:
    """Wait for the service.

    Raises:
        OSError, RuntimeError: if it does not start in a minute.
    """
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            Client(port).ask("GET", "/readyz")
            return
        except (OSError, RuntimeError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def command(
    threads: recipe.Threads = 2,
    seconds: Annotated[float, typer.Option(min=1, help="For each number of clients.")] = 15.0,
    clients: Annotated[str, typer.Option(help="Numbers of clients.")] = "1,4,16",
    output: recipe.Output = None,
) -> None:
    """Load the service."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = ("serve", "--port", str(port), "--threads", str(threads), "--rate", "0")
    process = subprocess.Popen([*recipe.COMMAND, *serve], stderr=subprocess.DEVNULL)
    rows: list[dict[str, Any]] = []
    try:
        wait_until_ready(port)
        for kind in KINDS:
            for count in parse_sizes("--clients", clients):
                row = load(port, count, seconds, kind)
                memory_mb = round((resident_bytes(process.pid) or 0) / 1e6, 1)
                rows.append({"kind": kind, **row, "memory_mb": memory_mb})
    finally:
        process.terminate()
        process.wait(30)
    recipe.print_rows(f"samus-edge serve, {threads} threads", rows)
    recipe.write_results(
        __file__, {"threads": threads, "seconds_each": seconds, "results": rows}, output
    )


if __name__ == "__main__":
    typer.run(command)
