"""CVAT's own command runs our functions, against the few answers of a CVAT server that it needs."""

import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samus_edge.errors import BadArgumentError
from samus_edge.runtime import Segmenter, read_image
from samus_edge.server.segmentation_service import box_of
from tests.conftest import EXAMPLE_BOXES, EXAMPLES_DIR
from tests.discs import corner_proposer, disc_decoder, mean_grey_encoder, save_bundle

pytest.importorskip("cvat_cli", reason="needs cvat-cli, for Python 3.11 or newer")
import cvat_cli.__main__
from cvat_sdk import auto_annotation as cvataa
from cvat_sdk.masks import decode_mask

NAME = "benign_80.png"
BOX = EXAMPLE_BOXES[NAME]
IMAGE = read_image(EXAMPLES_DIR / NAME)
HEIGHT, WIDTH = IMAGE.shape
DATE = "2026-01-01T00:00:00Z"
ANSWERS: dict[str, Any] = {
    "/api/server/about": dict.fromkeys(("name", "description", "logo_url", "subtitle"), "")
    | {"version": "2.80.0"},
    "/api/tasks/1": {
        "id": 1,
        "name": "lesions",
        "size": 1,
        "data_chunk_size": 1,
        "data_original_chunk_type": "imageset",
        "updated_date": DATE,
        "organization": None,
        "jobs": {"url": "", "count": 1, "completed": 0, "validation": 0},
        "labels": {"url": ""},
    },
    "/api/labels": {
        "count": 1,
        "next": None,
        "previous": None,
        "results": [{"id": 7, "name": "lesion", "type": "any", "attributes": [], "sublabels": []}],
    },
    "/api/tasks/1/data/meta": {
        "chunk_size": 1,
        "size": 1,
        "image_quality": 70,
        "start_frame": 0,
        "stop_frame": 0,
        "frame_filter": "",
        "frames": [{"width": WIDTH, "height": HEIGHT, "name": NAME, "related_files": 0}],
        "deleted_frames": [],
        "chunks_updated_date": DATE,
    },
    "/api/functions": {"id": 5, "name": "SAMUS-HF"},
}


@pytest.fixture
def cvat() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server with a task of one image; its address, and what was sent to it."""
    sent: list[tuple[str, Any]] = []

    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.partition("?")[0].rstrip("/")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if body:
                sent.append((f"{self.command} {path}", json.loads(body)))
            content = json.dumps(ANSWERS.get(path, {})).encode()
            if path == "/api/tasks/1/data":
                chunk = io.BytesIO()
                with zipfile.ZipFile(chunk, "w") as archive:
                    archive.write(EXAMPLES_DIR / NAME, "000000.png")
                content = chunk.getvalue()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
        server.shutdown()


@pytest.fixture
def run_cvat(
    cvat: tuple[str, list[tuple[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Runs CVAT's command on that server, in this process."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "key")

    def run(*arguments: str) -> int:
        return int(cvat_cli.__main__.main(["--server-host", cvat[0], *arguments]))

    return run


def test_a_task_is_annotated_with_the_masks_that_the_segmenter_gives(
    cvat: tuple[str, list[tuple[str, Any]]], run_cvat: Callable[..., int], segmenter: Segmenter
) -> None:
    _, sent = cvat
    boxes = f"boxes=str:{EXAMPLES_DIR / 'prompts.json'}"
    command = ["task", "auto-annotate", "1", "--function-module", "samus_edge.server.cvat"]
    assert run_cvat(*command, "-p", boxes) == 0
    (where, annotations) = sent[-1]
    assert where == "PATCH /api/tasks/1/annotations"
    (shape,) = annotations["shapes"]
    assert (shape["label_id"], shape["frame"], shape["source"]) == (7, 0, "auto")
    expected = segmenter.segment(IMAGE, boxes=[BOX]).masks[0, 0]
    found = decode_mask(shape["points"], image_width=WIDTH, image_height=HEIGHT)
    np.testing.assert_array_equal(found, expected)


def test_a_function_for_an_agent_is_registered(
    cvat: tuple[str, list[tuple[str, Any]]],
    run_cvat: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, sent = cvat
    module = ("--function-module", "samus_edge.server.cvat")
    assert run_cvat("function", "create-native", "SAMUS-HF", *module) == 0
    assert capsys.readouterr().out == "5\n"
    where, said = sent[-1]
    assert where == "POST /api/functions"
    assert said["kind"] == "interactor"
    assert (said["min_pos_points"], said["min_neg_points"]) == (0, 0)
    assert said["startswith_box_optional"]


class Prompts(cvataa.InteractionPrompts):  # type: ignore[misc]  # not known to mypy
    """Prompts in CVAT's coordinates, whose pixels have their corners at integers."""

    pos_points = ()
    neg_points = ()
    bounding_box = None

    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            setattr(self, name, value)


def test_an_interaction_gives_the_masks_that_the_segmenter_gives(segmenter: Segmenter) -> None:
    from PIL import Image

    from samus_edge.server.cvat import Interaction

    function = Interaction(segmenter)
    with Image.open(EXAMPLES_DIR / NAME) as image:
        encoded = function.preprocess_image(None, image)
    x1, y1, x2, y2 = BOX
    corners = ((x1 + 0.5, y1 + 0.5), (x2 + 0.5, y2 + 0.5))
    click, beside = (290, 230), (150, 360)
    points = {
        "pos_points": ((click[0] + 0.5, click[1] + 0.5),),
        "neg_points": ((beside[0] + 0.5, beside[1] + 0.5),),
    }
    for given, prompt in (
        ({"bounding_box": corners}, {"boxes": [BOX]}),
        (points, {"point_coords": [[click, beside]], "point_labels": [[1, 0]]}),
        (
            {"bounding_box": corners, "neg_points": points["neg_points"]},
            {"boxes": [BOX], "point_coords": [[beside]], "point_labels": [[0]]},
        ),
    ):
        (shape,) = function.detect(None, encoded, Prompts(**given))
        expected = segmenter.segment(IMAGE, **prompt)
        assert shape.type == "mask"
        found = decode_mask(shape.points, image_width=WIDTH, image_height=HEIGHT)
        np.testing.assert_array_equal(found, expected.masks[0, 0])
        confidence = float(shape.attributes[0].value)
        assert confidence == pytest.approx(expected.iou_predictions[0, 0], abs=1e-4)


def test_detections_are_polygons_where_these_are_wanted_and_none_is_too_unsure(
    segmenter: Segmenter,
) -> None:
    from PIL import Image

    from samus_edge.server.cvat import Detection

    function = Detection(segmenter, "lesion", {NAME: [box_of(list(map(float, BOX)))]})
    expected = segmenter.segment(IMAGE, boxes=[BOX])
    score = float(expected.iou_predictions[0, 0])

    def detect(name: str, least: float | None = None) -> Any:
        asked = SimpleNamespace(frame_name=name, conf_threshold=least, conv_mask_to_poly=True)
        with Image.open(EXAMPLES_DIR / NAME) as image:
            return function.detect(asked, image)

    (shape,) = detect(NAME, score - 0.01)
    assert shape.type.value == "polygon"
    x, y = np.reshape(shape.points, (-1, 2)).T
    rows, columns = np.nonzero(expected.masks[0, 0])
    assert (x.min(), x.max()) == (columns.min() + 0.5, columns.max() + 0.5)
    assert (y.min(), y.max()) == (rows.min() + 0.5, rows.max() + 0.5)
    assert detect(NAME, score + 0.01) == detect("another.png") == []


def test_lesions_are_proposed_without_boxes(tmp_path: Path) -> None:
    from PIL import Image

    from samus_edge.server.cvat import Detection, create

    graphs = [mean_grey_encoder(), disc_decoder(), corner_proposer()]
    bundle = save_bundle(tmp_path / "bundle", graphs)
    function = create(bundle=str(bundle), backend="onnxruntime", propose=True)
    assert isinstance(function, Detection)
    grey = np.full((60, 80), 90, np.uint8)
    with Segmenter.load(bundle, backend="onnxruntime", threads=1) as segmenter:
        expected = segmenter.propose(grey, max_lesions=3)
    asked = SimpleNamespace(frame_name="a.png", conf_threshold=None, conv_mask_to_poly=False)
    shapes = function.detect(asked, Image.fromarray(grey))
    assert len(shapes) == len(expected.masks) > 0
    for shape, masks in zip(shapes, expected.masks, strict=True):
        found = decode_mask(shape.points, image_width=80, image_height=60)
        np.testing.assert_array_equal(found, masks[0])


def test_wrong_parameters_are_refused(disc_bundle: Path, tmp_path: Path) -> None:
    from samus_edge.server.cvat import create

    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"a.png": [1, 2, 3]}')
    with pytest.raises(BadArgumentError, match=r"boxes\.json is not"):
        create(boxes=str(boxes))
    with pytest.raises(BadArgumentError, match="not both"):
        create(boxes=str(boxes), propose=True)
    with pytest.raises(BadArgumentError, match="no lesion proposer"):
        create(bundle=str(disc_bundle), backend="onnxruntime", propose=True)
