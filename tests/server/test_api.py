"""The REST interface."""

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from samus_edge.errors import (
    BackendError,
    BadArgumentError,
    BundleError,
    ImageFileError,
    MissingExtraError,
)
from samus_edge.jobs.segment_file import FileSegmentation, segment_file
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.cine.lesion_tracker import LesionTracker
from samus_edge.server.app import create_app
from samus_edge.server.segmentation_service import png_of
from samus_edge.server.settings import ServerSettings
from tests import discs

ClientOf = Callable[..., Any]
Client = TestClient
PROBLEM = "application/problem+json"


def png(image: Any) -> bytes:
    _, content = cv2.imencode(".png", image)
    return bytes(content)


def masks(client: Client, image: dict[str, Any], **request: Any) -> Any:
    response = client.post(f"/v1/images/{image['id']}/masks", json=request)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_mask_is_that_of_infer(client: Client, tmp_path: Path) -> None:
    frame = load_check_frames()[2]
    path, mask_file = tmp_path / "x.png", tmp_path / "mask.png"
    path.write_bytes(png(frame.image))
    box = x1, y1, x2, y2 = [float(value) for value in frame.box]
    single = segment_file(
        FileSegmentation(image=path, boxes=[(x1, y1, x2, y2)], threads=1, mask_file=mask_file)
    ).to_json()
    mask = cv2.imread(str(mask_file), cv2.IMREAD_UNCHANGED)
    response = client.post("/v1/images", content=path.read_bytes())
    assert response.status_code == 201
    image = response.json()
    size = {"width": frame.image.shape[1], "height": frame.image.shape[0]}
    assert image == image | {"kind": "image", "frames": 1, **size}
    found = masks(client, image, box=box)
    contours = found["mask"].pop("contours")
    assert {"frame": None, **found["mask"]} == {"name": "", "rle": None, **single["masks"][0]}
    del single["bundle"]["path"]
    for name in ("notes", "backend", "device", "precision", "graphs", "bundle", "versions"):
        assert found[name] == single[name]
    assert found["trace"]["bundle"] == single["bundle"]["name"]
    assert found["trace"]["prompt"]["box"] == box
    drawn = np.zeros(frame.image.shape, np.uint8)
    cv2.fillPoly(drawn, [np.array(polygon, np.int32) for polygon in contours], 255)
    assert (drawn == mask).mean() > 0.995
    assert found["timings_ms"]["encode"] > 0
    assert masks(client, image, box=box)["timings_ms"]["encode"] == 0  # kept
    content = client.post(f"/v1/images/{image['id']}/mask.png", json={"box": box})
    assert content.headers["content-type"] == "image/png"
    decoded = cv2.imdecode(np.frombuffer(content.content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, mask)
    overlay = client.post(f"/v1/images/{image['id']}/overlay.png", json={"box": box})
    assert overlay.content.startswith(b"\x89PNG")


def test_points_refine(client: Client, example: dict[str, Any], segmenter: Segmenter) -> None:
    box = example["box"]
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    point = {"x": x, "y": y, "label": 1}
    first = masks(client, example, points=[point])
    assert first["mask"]["area_px"] > 0
    beside = {"x": box[0] + 3, "y": box[1] + 3, "label": 0}
    prompts = {"box": box, "points": [point, beside]}
    found = masks(client, example, **prompts)["mask"]
    frame = next(each for each in load_check_frames() if each.name == "benign_256.png")
    expected = segmenter.segment(
        frame.image,
        boxes=[box],
        point_coords=[[[x, y], [beside["x"], beside["y"]]]],
        point_labels=[[1, 0]],
    )
    assert found["area_px"] == int(expected.masks[0, 0].sum())
    in_mm = masks(client, example, box=box, pixel_mm=0.1)["mask"]["measurements"]
    in_px = masks(client, example, box=box)["mask"]["measurements"]
    assert (in_mm["unit"], in_px["unit"]) == ("mm", "px")
    assert in_mm["width"] == pytest.approx(0.1 * in_px["width"], abs=1e-3)
    place = {"side": "left", "clock": 2, "nipple_mm": 40.5, "depth_mm": None}
    told = masks(client, example, box=box, location=place)["mask"]["measurements"]
    assert (told["location"], in_px["location"]) == (place, None)


def test_frames_come_as_they_are(client: Client, example: dict[str, Any]) -> None:
    response = client.get(f"/v1/images/{example['id']}/frames/0")
    assert response.headers["content-type"] == "image/png"
    decoded = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, load_check_frames()[1].image)


def _fail(*arguments: object, **options: object) -> None:
    raise BackendError("the GPU is gone")


def test_a_study_is_followed_and_segmented(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import BytesIO

    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    path = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    image = client.post("/v1/images", content=path.read_bytes()).json()
    assert (image["kind"], image["frames"]) == ("dicom", 30)
    assert image["frames_per_second"] == pytest.approx(30, rel=0.01)
    request = {"box": [120, 60, 220, 150], "frame": 2, "max_frames": 3}
    response = client.post(f"/v1/images/{image['id']}/track", json=request)
    assert response.headers["content-type"].startswith("application/x-ndjson")
    documents = [json.loads(line) for line in response.text.splitlines()]
    assert [document["frame"] for document in documents] == [2, 3, 4]
    assert documents[0]["state"] == "tracking"
    assert documents[0]["mask"]["measurements"] == documents[0]["measurements"]
    assert documents[0]["seconds"] == pytest.approx(2 / 30, rel=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(LesionTracker, "update", _fail)
        response = client.post(f"/v1/images/{image['id']}/track", json=request)
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert (len(lines), lines[-1]) == (2, {"error": "the GPU is gone"})
    seg = client.post(
        f"/v1/images/{image['id']}/segmentation.dcm", json={"box": [120, 60, 220, 150]}
    )
    assert seg.headers["content-type"] == "application/dicom"
    assert dcmread(BytesIO(seg.content)).Modality == "SEG"


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        ("masks", {}, 422, "no prompt was given"),
        ("masks", {"box": [1, 2, 3]}, 422, "box"),
        ("masks", {"box": [900, 900, 950, 950]}, 422, "outside the image"),
        ("masks", {"box": [50, 50, 10, 10]}, 422, "x1"),
        ("masks", {"points": [{"x": 1, "y": 1, "label": 2}]}, 422, "label"),
        ("masks", {"box": [1, 1, 50, 50], "frame": 1}, 404, "no frame 1"),
        ("masks", {"box": [1, 1, 50, 50], "frame": -1}, 422, "frame"),
        ("masks", {"box": [1, 1, 50, 50], "colour": 1}, 422, "Extra inputs"),
        ("masks", {"box": [1, 1, 50, 50], "pixel_mm": 0}, 422, "greater than 0"),
        ("masks", {"box": [1, 1, 50, 50], "location": {"clock": 13}}, 422, "clock"),
        ("masks", {"box": [1, 1, 50, 50], "location": {}}, 422, "a location needs"),
        ("track", {"box": [1, 1, 50, 50], "frame": 7}, 404, "no frame 7"),
        ("segmentation.dcm", {"box": [1, 1, 50, 50]}, 422, "this is none"),
    ],
)
def test_bad_requests_get_problem_documents(
    client: Client,
    example: dict[str, Any],
    path: str,
    request_: dict[str, Any],
    status: int,
    message: str,
) -> None:
    response = client.post(f"/v1/images/{example['id']}/{path}", json=request_)
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    document = response.json()
    assert (document["type"], document["status"]) == ("about:blank", status)
    assert message in document["detail"]
    assert document["instance"].endswith(path)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "the body is empty"),
        (b"no image", 415, "is not a PNG"),
        (png(np.zeros((9, 9), np.uint8))[:50], 415, "the file"),
        (b"\0" * 128 + b"DICM" + b"\x02\0\0\0", 415, "the file"),
        (b"RIFF\0\0\0\0AVI LIST", 415, "the file is not a video that can be read"),
    ],
)
def test_files_that_are_none_are_refused(
    client: Client, content: bytes, status: int, message: str
) -> None:
    response = client.post("/v1/images", content=content)
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    assert message in response.json()["detail"]
    assert "/tmp" not in response.text


def test_images_are_forgotten(client: Client, example: dict[str, Any]) -> None:
    assert client.delete(f"/v1/images/{example['id']}").status_code == 204
    assert client.delete(f"/v1/images/{example['id']}").status_code == 204
    response = client.get(f"/v1/images/{example['id']}/frames/0")
    assert (response.status_code, response.headers["content-type"]) == (404, PROBLEM)


def test_operation(client: Client, example: dict[str, Any]) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    masks(client, example, box=example["box"])
    text = client.get("/metrics").text
    assert 'samus_edge_requests_total{method="GET",route="/healthz",status="200"}' in text
    assert "samus_edge_sessions " in text
    assert 'samus_edge_inference_seconds_count{step="decode"}' in text
    assert example["id"] not in text
    info = client.get("/v1/info").json()
    assert info["limits"]["sessions"] == 32
    assert "not a medical device" in info["notice"]
    assert client.get("/nothing").headers["content-type"] == PROBLEM
    assert client.put("/v1/info").status_code == 405


def test_the_page_may_load_nothing_from_elsewhere(client: Client) -> None:
    for path in ("/", "/page.js", "/page.css"):
        response = client.get(path)
        assert response.status_code == 200
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert "http://" not in response.text
        assert "https://" not in response.text


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, RuntimeError])
def test_bugs_are_500_logged_once_and_counted(
    client_of: ClientOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    from samus_edge.server.segmentation_service import SegmentationService

    def fail(*arguments: object) -> None:
        raise error("secret")

    monkeypatch.setattr(SegmentationService, "masks", fail)
    with client_of() as client:
        image = client.post("/v1/images", params={"example": "benign_256.png"}).json()
        path = f"/v1/images/{image['id']}/masks"
        response = client.post(path, json={"box": [1, 1, 50, 50]})
        metrics = client.get("/metrics").text
    assert (response.status_code, response.headers["content-type"]) == (500, PROBLEM)
    assert "secret" not in response.text
    assert response.headers["x-request-id"]
    (logged,) = (record for record in caplog.records if record.exc_info)
    assert logged.exc_info is not None
    assert logged.exc_info[0] is error
    route = 'route="/v1/images/{image_id}/masks"'
    assert f"samus_edge_unhandled_errors_total{{{route}}} 1.0" in metrics
    assert f'samus_edge_requests_total{{method="POST",{route},status="500"}} 1.0' in metrics


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadArgumentError, 422),
        (MissingExtraError, 422),
        (ImageFileError, 415),
        (BackendError, 503),
        (BundleError, 500),
    ],
)
def test_errors_for_the_client_keep_their_message(
    client: Client,
    example: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    status: int,
) -> None:
    def fail(*arguments: object) -> None:
        raise error("what was wrong")

    monkeypatch.setattr("samus_edge.server.session.Session.embedding", fail)
    response = client.post(f"/v1/images/{example['id']}/masks", json={"box": [1, 1, 50, 50]})
    assert (response.status_code, response.json()["detail"]) == (status, "what was wrong")


def test_a_bug_in_the_middle_of_a_cine_ends_it(
    client: Client, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("secret")

    monkeypatch.setattr("samus_edge.server.segmentation_service._document", fail)
    response = client.post(f"/v1/images/{example['id']}/track", json={"box": [1, 1, 50, 50]})
    assert "this is a bug" in json.loads(response.text)["error"]
    assert "secret" not in response.text


def test_images_are_listed_described_and_not_sent_twice(client: TestClient) -> None:
    sent = client.post("/v1/images", params={"example": "benign_120.png"})
    where = sent.headers["location"]
    described = client.get(where).json()
    assert described == {**sent.json(), "box": None}
    assert described in client.get("/v1/images").json()
    frame = client.get(f"{where}/frames/0")
    tag = frame.headers["etag"]
    again = client.get(f"{where}/frames/0", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head(f"{where}/frames/0")
    assert head.headers["content-length"] == str(len(frame.content))
    assert head.content == b""
    other = client.post("/v1/images", params={"example": "benign_120.png"}).headers["location"]
    assert client.get(f"{other}/frames/0", headers={"If-None-Match": tag}).status_code == 200
    document = client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {each["type"] for each in schemes.values()} == {"http", "apiKey"}
    assert document["paths"]["/v1/images/{image_id}/masks"]["post"]["security"]
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_a_form_is_an_upload_as_curl_sends_it(client: TestClient) -> None:
    frame = load_check_frames()[0]
    content = png_of(frame.image)
    sent = client.post("/v1/images", files={"file": ("x.png", content)})
    assert sent.status_code == 201
    assert sent.json()["file_sha256"] == hashlib.sha256(content).hexdigest()
    for files in ({"image": ("x.png", content)}, {"file": (None, "x")}):
        response = client.post("/v1/images", files=files)
        assert response.status_code == 422
        assert "curl -F file=@x.png" in response.json()["detail"]


def test_one_call_without_a_trace(client: TestClient) -> None:
    frame = load_check_frames()[0]
    content, prompt = png_of(frame.image), {"box": [float(value) for value in frame.box]}
    before = len(client.get("/v1/images").json())
    form: dict[str, Any] = {"file": ("x.png", content), "prompt": (None, json.dumps(prompt))}
    found = client.post("/v1/segment", files=form).json()
    assert len(client.get("/v1/images").json()) == before
    kept = client.post("/v1/images", files={"file": ("x.png", content)}).json()["id"]
    expected = client.post(f"/v1/images/{kept}/masks", json=prompt).json()
    assert found["mask"] == expected["mask"]
    for wrong in ({"box": [1, 2]}, {"unknown": 1}, {}):
        form["prompt"] = (None, json.dumps(wrong))
        assert client.post("/v1/segment", files=form).status_code == 422
    form["prompt"] = (None, "x" * (1 << 21))
    assert client.post("/v1/segment", files=form).status_code == 422


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_several_lesions_in_one_call(
    client: TestClient, segmenter: Segmenter, example: dict[str, Any]
) -> None:
    coco_mask = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    frame = next(each for each in load_check_frames() if each.name == "benign_256.png")
    first, second = [float(value) for value in frame.box], [10.0, 20.0, 90.0, 70.0]
    expected = segmenter.segment(frame.image, boxes=[first, second]).masks[:, 0]
    click = {"x": 0.5 * (first[0] + first[2]), "y": 0.5 * (first[1] + first[3])}
    found = masks(client, example, boxes=[first, second])
    assert found["mask"] is None
    assert [each["area_px"] for each in found["masks"]] == [int(each.sum()) for each in expected]
    lesions = [
        {"box": second, "name": "B", "location": {"side": "left", "clock": 3}},
        {"points": [click], "name": "A", "alternative": 2},
    ]
    three = segmenter.segment(
        frame.image, point_coords=[[click["x"], click["y"]]], multimask_output=True
    ).masks[0]
    drawn = np.stack([expected[1], three[1]])
    request = {"lesions": lesions, "pixel_mm": 0.1, "file_name": "x.png"}
    sent: dict[str, Any] = {
        "file": ("x.png", png_of(frame.image)),
        "prompt": (None, json.dumps(request)),
    }

    def file(name: str) -> bytes:
        kept = client.post(f"/v1/images/{example['id']}/{name}", json=request)
        assert kept.status_code == 200, kept.text
        assert kept.headers["content-disposition"] == f'attachment; filename="{name}"'
        at_once = client.post("/v1/segment", files=sent, params={"result": name})
        assert at_once.headers["content-type"] == kept.headers["content-type"]
        assert name.endswith(".npz") or at_once.content == kept.content
        return kept.content

    labels = cv2.imdecode(np.frombuffer(file("mask.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, np.where(drawn[1], 2, drawn[0].astype(np.uint8)))
    with np.load(io.BytesIO(file("masks.npz")), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["masks"], drawn)
        assert arrays["labels"].tolist() == ["B", "A"]
    rows = list(csv.DictReader(io.StringIO(file("measurements.csv").decode())))
    assert [(row["label"], row["unit"]) for row in rows] == [("B", "mm"), ("A", "mm")]
    assert [int(row["area_px"]) for row in rows] == [int(each.sum()) for each in drawn]
    coco = json.loads(file("coco.json"))
    assert [each["name"] for each in coco["categories"]] == ["B", "A"]
    answer = masks(client, example, **request, rle=True)["masks"]
    for each, found, expected_mask in zip(coco["annotations"], answer, drawn, strict=True):
        for counted in (each["segmentation"], found["rle"]):
            np.testing.assert_array_equal(coco_mask.decode(counted), expected_mask)
    both = client.post(f"/v1/images/{example['id']}/masks", json={"box": first, "boxes": [second]})
    assert both.status_code == 422


def test_lesions_are_suggested_by_a_bundle_that_can(
    client: TestClient, example: dict[str, Any], tmp_path: Path
) -> None:
    path = f"/v1/images/{example['id']}/proposals"
    if not client.get("/v1/info").json()["can_propose"]:
        assert client.post(path, json={}).status_code == 422
    graphs = [discs.mean_grey_encoder(), discs.disc_decoder(), discs.corner_proposer()]
    bundle = discs.save_bundle(tmp_path / "bundle", graphs)
    image = np.full((128, 512), 51, np.uint8)
    with Segmenter.load(bundle, backend="onnxruntime", threads=1) as proposing:
        app = create_app(ServerSettings(), proposing)
        with TestClient(app, base_url="http://localhost") as own:
            assert own.get("/v1/info").json()["can_propose"]
            kept = own.post("/v1/images", content=png_of(image)).json()
            path = f"/v1/images/{kept['id']}"
            found = own.post(f"{path}/proposals", json={"max_lesions": 3}).json()
            first, second = found["proposals"]  # as tests/runtime/test_proposals.py works out
            assert first["point"] == pytest.approx([128.5, 31.75], abs=1e-3)
            assert (first["score"], second["score"]) == pytest.approx((0.9, 0.72))
            assert found["notes"][0]["code"] == "proposed"
            x, y = first["point"]
            mask = own.post(f"{path}/masks", json={"points": [{"x": x, "y": y}], "rle": True})
            expected = proposing.propose(image).masks[0, 0]
            assert mask.json()["mask"]["area_px"] == int(expected.sum())


def test_strict_refuses_what_may_be_wrong(client: TestClient) -> None:
    blank = client.post("/v1/images", content=png_of(np.full((90, 120), 50, np.uint8))).json()
    prompt = {"box": [10, 10, 60, 60]}
    notes = [each for each in masks(client, blank, **prompt)["notes"] if each["level"] != "info"]
    assert notes[0]["code"] == "blank_frame"
    for path in ("masks", "mask.png"):
        response = client.post(f"/v1/images/{blank['id']}/{path}", json={**prompt, "strict": True})
        assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM)
        assert all(note["text"] in response.json()["detail"] for note in notes)


def test_text_is_compressed_where_the_client_takes_it_and_files_are_not(
    client: TestClient, example: dict[str, Any]
) -> None:
    path, prompt = f"/v1/images/{example['id']}", {"box": example["box"]}
    plain = client.get("/page.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert client.get("/page.js", headers={"Accept-Encoding": "gzip;q=0"}).content == plain.content
    zipped = client.get("/page.js", headers={"Accept-Encoding": "br, gzip"})
    assert (zipped.headers["content-encoding"], zipped.content) == ("gzip", plain.content)
    assert int(zipped.headers["content-length"]) < 0.5 * len(plain.content)
    answer = client.post(f"{path}/masks", json=prompt, headers={"Accept-Encoding": "gzip"})
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == (
        "gzip",
        "Accept-Encoding",
    )
    for name in ("overlay.png", "masks.npz"):
        file = client.post(f"{path}/{name}", json=prompt, headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in file.headers


def test_large_forms_stay_in_memory(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # no file can be made
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500), np.uint8)
    content = png_of(noise)
    assert len(content) > 1 << 21
    assert client.post("/v1/images", files={"file": ("x.png", content)}).status_code == 201
