"""The backend of Label Studio: its requests over a socket, masks decoded by its own converter."""

import base64
import importlib.metadata
import importlib.util
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from samus_edge.errors import BadArgumentError
from samus_edge.runtime import Segmenter, read_image
from samus_edge.server.app import create_app
from samus_edge.server.label_studio import ImageFetcher
from samus_edge.server.settings import ServerSettings
from tests.conftest import EXAMPLE_BOXES, EXAMPLES_DIR
from tests.discs import corner_proposer, disc_decoder, mean_grey_encoder, save_bundle

NAME = "benign_80.png"
IMAGE = read_image(EXAMPLES_DIR / NAME)
HEIGHT, WIDTH = IMAGE.shape
BOX = EXAMPLE_BOXES[NAME]
CONFIG = """<View>
  <!-- as the labelling interface has it -->
  <Image name="image" value="$picture" zoom="true"/>
  <KeyPointLabels name="click" toName="image" smart="true"><Label value="Lesion"/></KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="Cyst"/></RectangleLabels>
  <BrushLabels name="mask" toName="image"><Label value="Lesion"/><Label value="Cyst"/></BrushLabels>
</View>"""


class Pictures(BaseHTTPRequestHandler):
    """What Label Studio has, and what an attacker would make it say."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, self.headers.get("Authorization")))
        content = (EXAMPLES_DIR / NAME).read_bytes()
        if self.path.startswith("/away?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing.png" else 200)
        if self.path != "/endless.png":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[Callable[[], Any]]:
    """Starts servers of pictures, each with an `address` and what it was `asked`."""
    started: list[Any] = []

    def start() -> Any:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
        server.asked, server.address = [], f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def brush() -> Any:
    """Label Studio's own converter of brush masks; the rest of its package needs much more."""
    try:
        files = importlib.metadata.files("label-studio-sdk") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs label-studio-sdk: pip install --no-deps label-studio-sdk")
    (path,) = (file.locate() for file in files if file.as_posix().endswith("converter/brush.py"))
    spec = importlib.util.spec_from_file_location("label_studio_brush", Path(str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def backend(serve: Callable[..., Any], pictures: Callable[[], Any]) -> Iterator[tuple[Any, Any]]:
    """A service that Label Studio has as a backend, in a process of its own: what posts to it, and
    the server of pictures."""
    studio = pictures()
    arguments = ("--label-studio", studio.address)
    given = {"SAMUS_EDGE_TOKEN": "secret", "LABEL_STUDIO_API_KEY": "key"}
    with serve(*arguments, **given) as (address, _):

        def ask(
            path: str, body: dict[str, Any] | None = None, token: str = "secret"
        ) -> tuple[int, Any]:
            login = base64.b64encode(f"label-studio:{token}".encode()).decode()
            request = urllib.request.Request(
                f"{address}/v1/label-studio/{path}",
                None if body is None else json.dumps(body).encode(),
                {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as err:
                return err.code, json.load(err)

        yield ask, studio


def region(kind: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    """A region as Label Studio's editor sends it; (x, y) in pixels with centres at integers."""
    value = {"x": (x + 0.5) / WIDTH * 100, "y": (y + 0.5) / HEIGHT * 100, "width": 0.3}
    value |= {kind: ["Cyst" if kind == "rectanglelabels" else "Lesion"]}
    shape = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "a", "type": kind, "value": value, **shape, **more}


def rectangle(box: list[int]) -> dict[str, Any]:
    found = region("rectanglelabels", box[0], box[1])
    size = {"width": (box[2] - box[0]) / WIDTH * 100, "height": (box[3] - box[1]) / HEIGHT * 100}
    found["value"] |= {**size, "rotation": 0}
    return found


def click(x: float, y: float, is_positive: int) -> dict[str, Any]:
    return region("keypointlabels", x, y, is_positive=is_positive)


def predict(regions: list[dict[str, Any]], picture: str = f"/data/upload/1/{NAME}") -> Any:
    return {
        "tasks": [{"id": 1, "data": {"picture": picture}}],
        "project": "1.1700000000",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": {"result": regions}},
    }


SMALL = [200, 150, 330, 300]
PROMPTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[str]]] = {
    "box": ([rectangle(BOX)], {"boxes": [BOX]}, ["Cyst"]),
    "clicks": (
        [click(290, 230, 1), click(150, 360, 0)],
        {"point_coords": [[[290, 230], [150, 360]]], "point_labels": [[1, 0]]},
        ["Lesion"],
    ),
    "box and click": (
        [rectangle(BOX), click(160, 340, 0)],
        {"boxes": [BOX], "point_coords": [[[160, 340]]], "point_labels": [[0]]},
        ["Cyst"],
    ),
    "boxes": ([rectangle(BOX), rectangle(SMALL)], {"boxes": [BOX, SMALL]}, ["Cyst", "Cyst"]),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_masks_are_those_of_the_segmenter(
    backend: tuple[Any, Any], segmenter: Segmenter, brush: Any, name: str
) -> None:
    ask, _ = backend
    regions, prompt, labels = PROMPTS[name]
    status, answer = ask("predict", predict(regions))
    assert status == 200, answer
    (found,) = answer["results"]
    expected = segmenter.segment(IMAGE, **prompt)
    assert [each["value"]["brushlabels"] for each in found["result"]] == [[each] for each in labels]
    scores = [each["score"] for each in found["result"]]
    assert scores == pytest.approx(expected.iou_predictions[:, 0].tolist(), abs=1e-4)
    assert found["score"] == min(scores)
    # As Label Studio's export hands them to its converter.
    flat = [{**each, **each["value"]} for each in found["result"]]
    layers = brush.decode_from_annotation("mask", flat)
    assert len(layers) == len(labels)
    for layer, mask in zip(layers.values(), expected.masks[:, 0], strict=True):
        np.testing.assert_array_equal(layer, mask.astype(np.uint8) * 255)


def test_label_studio_connects_and_images_come_from_there_with_its_key(
    backend: tuple[Any, Any],
) -> None:
    ask, studio = backend
    assert ask("health") == (200, {"status": "UP", "model_class": "SAMUS-HF"})
    body = {"project": "1.17", "schema": CONFIG, "hostname": "http://evil", "access_token": "x"}
    status, answer = ask("setup", body)
    assert status == 200 and answer["model_version"].startswith("samus-hf-tiny ")
    assert ask("health", token="wrong")[0] == 401
    studio.asked.clear()
    for _ in range(2):
        assert ask("predict", predict([rectangle(BOX)], "/data/once.png"))[0] == 200
    assert studio.asked == [("/data/once.png", "Token key")]  # the second one was kept
    status, answer = ask("predict", predict([]))
    assert status == 200  # the default bundle proposes or does not; nobody prompted
    assert len(answer["results"]) == 1


def test_tasks_without_a_prompt_get_what_the_bundle_proposes(
    pictures: Callable[[], Any], brush: Any, tmp_path: Path
) -> None:
    graphs = [mean_grey_encoder(), disc_decoder(), corner_proposer()]
    bundle = save_bundle(tmp_path / "bundle", graphs)
    settings = ServerSettings(label_studio=(pictures().address,))
    with (
        Segmenter.load(bundle, backend="onnxruntime", threads=1) as segmenter,
        TestClient(create_app(settings, segmenter), base_url="http://localhost") as client,
    ):
        tasks = [{"data": {"picture": f"/{name}.png"}} for name in ("a", "b")]
        body = {"tasks": tasks, "label_config": CONFIG}
        answer = client.post("/v1/label-studio/predict", json=body).json()
        expected = segmenter.propose(IMAGE).masks[0, 0]
    assert len(answer["results"]) == 2
    for found in answer["results"]:
        (mask,) = found["result"]
        assert mask["value"]["brushlabels"] == ["Lesion"]
        (layer,) = brush.decode_from_annotation("mask", [{**mask, **mask["value"]}]).values()
        np.testing.assert_array_equal(layer, expected.astype(np.uint8) * 255)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"label_config": "<View/>"}, 422, "no <BrushLabels>"),
        ({"label_config": '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>'}, 422, "document type"),
        ({"label_config": "<View>"}, 422, "not XML"),
        ({"tasks": [{"data": {"other": "x"}}]}, 422, "no address"),
        ({"tasks": [{"data": {"picture": "/missing.png"}}]}, 502, "answered 404"),
        ({"tasks": [{"data": {"picture": "http://192.0.2.1/x.png"}}]}, 403, "--label-studio"),
        ({"tasks": [{"data": {"picture": "file:///etc/passwd"}}]}, 403, "--label-studio"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    backend: tuple[Any, Any], change: dict[str, Any], status: int, said: str
) -> None:
    ask, _ = backend
    found, problem = ask("predict", {**predict([rectangle(BOX)]), **change})
    assert found == status
    assert said in problem["detail"]


def test_an_image_of_another_size_than_label_studio_sees_is_refused(
    backend: tuple[Any, Any],
) -> None:
    ask, _ = backend
    status, problem = ask("predict", predict([{**rectangle(BOX), "original_width": WIDTH + 1}]))
    assert (status, f"{WIDTH}x{HEIGHT}" in problem["detail"]) == (422, True)


def test_images_are_fetched_from_named_places_alone(pictures: Callable[[], Any]) -> None:
    studio, other = pictures(), pictures()
    port = other.server_address[1]
    # The second place is named, and its name leads to a private address.
    fetcher = ImageFetcher([studio.address, f"http://localhost:{port}"], "key", 1 << 20)
    content = (EXAMPLES_DIR / NAME).read_bytes()
    assert fetcher.fetch("/a.png") == fetcher.fetch("/away?/b.png") == content
    host = studio.address.removeprefix("http://")
    for address in (
        other.address,
        f"//127.0.0.1:{port}/a.png",
        f"/away?{other.address}/a.png",
        f"http://{host}@127.0.0.1:{port}/a.png",
        f"http://127.0.0.1:{port}#@{host}/",
        f"http://127.0.0.1:{port}\\@{host}/a.png",
        f"https://{host}/a.png",
        f"http://localhost:{port}/a.png",
        "http://127.1/a.png",
        "http://[::1]/a.png",
        "http://[/a.png",
        "http://169.254.169.254/latest/meta-data/",
        f"file://{EXAMPLES_DIR / NAME}",
        "ftp://127.0.0.1/a.png",
    ):
        with pytest.raises(HTTPException) as refused:
            fetcher.fetch(address)
        assert refused.value.status_code == 403, address
    assert other.asked == []
    with pytest.raises(HTTPException, match="redirected more than 3 times"):
        fetcher.fetch("/away?/away?/away?/away?/away?/a.png".replace("?/away", "?" + "/away", 1))
    for path in ("/a.png", "/endless.png"):
        with pytest.raises(HTTPException, match="larger than 1000 bytes"):
            ImageFetcher([studio.address], None, 1000).fetch(path)
    with pytest.raises(BadArgumentError, match=r"'labels\.example' is no place"):
        ImageFetcher(["labels.example"], None, 1000)


def test_a_slow_server_is_not_waited_for(
    pictures: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samus_edge.server.label_studio._FETCH_SECONDS", 0.3)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # answers nothing
        begun = time.monotonic()
        with pytest.raises(HTTPException, match="TimeoutError"):
            ImageFetcher([f"http://127.0.0.1:{server.server_address[1]}"], None, 1000).fetch("/a")
        assert time.monotonic() - begun < 5
