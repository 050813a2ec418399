"""Latency and memory of `samus-edge serve` with several clients at once.

Run it in the development environment: `python benchmarks/server_load.py`. Writes
`benchmarks/results/server_load.json`.

The service runs in a process of its own. Each client keeps an image, and asks for masks of boxes
that move a little, one after the other, without a pause: more than people would. Beside prompts on
an image that is encoded already there are new images, which have to be encoded. Memory is that of
the service's process.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from samus_edge.benchmarking.bench_run import write_results
from samus_edge.benchmarking.turns import Latency
from samus_edge.runtime.bundle.check_frame import CheckFrame, load_check_frames

RESULTS = Path(__file__).resolve().parent / "results"
START_SECONDS = 60


class Client:
    """One client with a connection that stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer as JSON."""
        content = json.dumps(body).encode() if body is not None else b""
        self._connection.request(method, path, content, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{response.status}: {text.decode()}")
        return json.loads(text) if text else None


def work(port: int, frame: CheckFrame, seconds: float, is_new: bool, times: list[float]) -> None:
    """Ask for masks for some time; milliseconds of each answer."""
    client = Client(port)
    path = f"/v1/images?example={frame.name}"
    image = client.ask("POST", path)["id"]
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        shift = count % 5
        box = [float(value) + shift for value in frame.box]
        begun = time.perf_counter()
        if is_new:
            client.ask("DELETE", f"/v1/images/{image}")
            image = client.ask("POST", path)["id"]
        client.ask("POST", f"/v1/images/{image}/masks", {"box": box})
        times.append(1000 * (time.perf_counter() - begun))
        count += 1


def memory_mb(process: int) -> float:
    """Resident memory of a process, in units of 10^6 bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def load(port: int, clients: int, seconds: float, is_new: bool) -> dict[str, Any]:
    """Several clients at once."""
    frames = load_check_frames()
    times: list[list[float]] = [[] for _ in range(clients)]
    threads = [
        threading.Thread(
            target=work, args=(port, frames[index % len(frames)], seconds, is_new, times[index])
        )
        for index in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latency = Latency.of([value for each in times for value in each])
    return {
        "clients": clients,
        "requests": latency.runs,
        "p50_ms": round(latency.p50, 1),
        "p90_ms": round(latency.p90, 1),
        "p99_ms": round(latency.p99, 1),
        "per_second": round(latency.runs / seconds, 1),
    }


def command(
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the service.")] = 2,
    seconds: Annotated[float, typer.Option(min=1, help="For each number of clients.")] = 15.0,
    clients: Annotated[str, typer.Option(help="Numbers of clients.")] = "1,4,16",
    output: Annotated[Path, typer.Option(help="The result file.")] = RESULTS / "server_load.json",
) -> None:
    """Load the service."""
    console = Console()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["serve", "--port", str(port), "--threads", str(threads), "--rate", "0"]
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "samus_edge.cli.app", *arguments], stderr=subprocess.DEVNULL
    )
    rows: list[dict[str, Any]] = []
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                Client(port).ask("GET", "/readyz")
                break
            except (OSError, RuntimeError):
                if time.monotonic() > end:
                    sys.exit("the service does not start")
                time.sleep(0.1)
        for kind, is_new in (("prompt on a kept image", False), ("new image and prompt", True)):
            for count in (int(text) for text in clients.split(",")):
                row = load(port, count, seconds, is_new)
                rows.append({"kind": kind, **row, "memory_mb": round(memory_mb(process.pid), 1)})
                console.print(rows[-1])
    finally:
        process.terminate()
        process.wait(30)
    table = Table(title=f"samus-edge serve, {threads} threads")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "kind" else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    document = {
        "benchmark": "server_load",
        "threads": threads,
        "seconds_each": seconds,
        "results": rows,
    }
    write_results(output, document)


if __name__ == "__main__":
    typer.run(command)
