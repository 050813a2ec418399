"""Latency and memory of `samus-edge serve` with several clients at once.

`python benchmarks/server_load.py`

The service runs in a process of its own. Each client keeps an image, and asks for masks of boxes
that move a little, one after the other, without a pause: more than people would. Beside prompts on
an image that is encoded already there are new images, which have to be encoded, and files that are
sent, which have to be decoded as well. Memory is that of the service's own process.

With `--page`, clicks on the page in an installed Chromium on the same machine: from the pointer's
release to the frame after the mask was drawn, by the page's clock. The first click on an image
waits for the image encoder, further ones do not.
"""

import http.client
import importlib.util
import json
import shutil
import socket
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.subject import resident_bytes
from samus_edge.benchmarking.turns import Latency
from samus_edge.cli.options import parse_sizes
from samus_edge.runtime.bundle.check_frame import CheckFrame, load_check_frames
from samus_edge.runtime.images.overlay import encode_image

START_SECONDS = 60
IMAGE_SIZES = (640, 480), (4000, 3000)
CLOCK = """
document.getElementById("preview").checked = false;
addEventListener("pointerup", () => { begun = performance.now(); taken = 0; }, true);
new MutationObserver(() => {
  if (!document.getElementById("phase").textContent)
    requestAnimationFrame(() => { taken ||= performance.now() - begun; });
}).observe(document.getElementById("phase"), { childList: true });
var begun = 0, taken = 0;
"""
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


def missing_browser() -> str:
    """How to get what `--page` needs and is not there; "" if all is."""
    if importlib.util.find_spec("playwright") is None:
        return "--page needs playwright: pip install playwright"
    return "" if shutil.which("chromium") else "--page needs chromium: apt-get install chromium"


def click(port: int, size: tuple[int, int], clicks: int = 12) -> dict[str, Any]:
    """Milliseconds of clicks on the page, on an image of a size (width, height)."""
    import cv2
    from playwright.sync_api import sync_playwright

    image = np.asarray(cv2.resize(load_check_frames()[2].image, size), np.uint8)
    content = encode_image(Path("x.png"), image)
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/")
        page.evaluate(CLOCK)
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": content})
        page.wait_for_selector("#add-lesion:not([disabled])")
        page.keyboard.press("a")
        times: list[float] = []
        while len(times) < clicks:
            page.mouse.click(500 + 9 * len(times), 400 + 5 * len(times))
            while not (taken := page.evaluate("window.taken")):
                page.wait_for_timeout(5)
            times.append(taken)
            page.keyboard.press("Escape")  # each click is a prompt of its own
            page.wait_for_timeout(100)
        browser.close()
    return {
        "image": f"{size[0]} x {size[1]}",
        "first_click_ms": round(times[0], 1),
        "further_click_ms": round(statistics.median(times[1:]), 1),
        "slowest_further_ms": round(max(times[1:]), 1),
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
    page: Annotated[bool, typer.Option("--page", help="Clicks in a browser as well.")] = False,
    output: recipe.Output = None,
) -> None:
    """Load the service."""
    if page and (missing := missing_browser()):
        print(missing)
        raise typer.Exit(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = ("serve", "--port", str(port), "--threads", str(threads), "--rate", "0")
    process = subprocess.Popen([*recipe.COMMAND, *serve], stderr=subprocess.DEVNULL)
    rows: list[dict[str, Any]] = []
    try:
        wait_until_ready(port)
        clicked = [click(port, size) for size in IMAGE_SIZES] if page else []
        for kind in KINDS:
            for count in parse_sizes("--clients", clients):
                row = load(port, count, seconds, kind)
                memory_mb = round((resident_bytes(process.pid) or 0) / 1e6, 1)
                rows.append({"kind": kind, **row, "memory_mb": memory_mb})
    finally:
        process.terminate()
        process.wait(30)
    recipe.print_rows(f"samus-edge serve, {threads} threads", rows)
    if clicked:
        recipe.print_rows("its page", clicked)
    found = {"threads": threads, "seconds_each": seconds, "results": rows, "page": clicked}
    recipe.write_results(__file__, found, output)


if __name__ == "__main__":
    typer.run(command)
