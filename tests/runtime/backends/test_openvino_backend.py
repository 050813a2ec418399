"""OpenVINO, where it is installed: real graphs, compared with ONNX Runtime."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samus_edge.errors import BackendError
from samus_edge.runtime import Prediction, Segmenter
from samus_edge.runtime.agreement import mask_iou
from samus_edge.runtime.backends.backend_selection import select_backend
from samus_edge.runtime.backends.openvino_backend import OpenVinoBackend
from samus_edge.runtime.bundle.bundle import Bundle

pytestmark = pytest.mark.skipif(
    find_spec("openvino") is None,
    reason="OpenVINO is not installed: pip install 'samus-edge[openvino]'",
)

BOXES = [[100, 50, 300, 250]]
FRAME = np.tile(np.arange(480, dtype=np.uint8)[:, None], (1, 640))

# Of an engine against its graph, by the project's gates.
MIN_MASK_IOU = 0.96
# float32 on both: what another order of sums may change in logits of about 10.
FLOAT32_TOLERANCE = 1e-3


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own; gives the folder of what OpenVINO keeps."""
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture(scope="module")
def prepared(disc_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What OpenVINO keeps once `disc_bundle` is prepared; do not change it."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMUS_EDGE_CACHE", str(folder))
        prepare(disc_bundle)
    return folder / "openvino"


@pytest.fixture
def prepared_cache(cache: Path, prepared: Path) -> Path:
    """A copy of `prepared` as this test's own cache."""
    return Path(shutil.copytree(prepared, cache))


def prepare(bundle: Path) -> Prediction:
    """As `samus-edge build` does, and one prediction by what it prepared."""
    with Segmenter.load(bundle, backend="openvino", threads=2) as segmenter:
        return segmenter.segment(FRAME, boxes=BOXES)


def change_verdict(cache: Path, change: Callable[[dict[str, Any]], None]) -> None:
    (path,) = cache.glob("*.json")
    document = json.loads(path.read_text())
    for verdict in document["verdicts"].values():
        change(verdict)
    path.write_text(json.dumps(document))


def test_masks_are_those_of_onnx_runtime_for_any_frame_and_number_of_prompts(
    openvino_cache: Path, asset_frames: list[Any]
) -> None:
    opened = Bundle.open()
    with (
        Segmenter(opened, OpenVinoBackend(2, cache=openvino_cache)) as tested,
        Segmenter(opened, select_backend("onnxruntime", 2)) as reference,
    ):
        assert tested.backend.device == "CPU"
        for frame in asset_frames[::6]:
            embeddings = tested.encode(frame.image), reference.encode(frame.image)
            for prompts in (
                {"boxes": frame.box[None]},
                {"boxes": np.stack([frame.box, frame.box / 2, frame.box * 0.9])},
                {"point_coords": [[frame.box[:2], frame.box[2:]]], "point_labels": [[1, 0]]},
            ):
                ours = tested.predict(embeddings[0], **prompts)
                theirs = reference.predict(embeddings[1], **prompts)
                assert ours.masks.shape == theirs.masks.shape
                for mine, other in zip(ours.masks, theirs.masks, strict=True):
                    assert mask_iou(mine, other) >= MIN_MASK_IOU


def test_float32_is_float32(openvino_cache: Path) -> None:
    opened = Bundle.open()
    backend = OpenVinoBackend(2, precision="f32", cache=openvino_cache)
    graph, record = opened.read_graph("image_encoder"), opened.graph_record("image_encoder")
    session = backend.open_graph("image_encoder", graph, record)
    expected = select_backend("onnxruntime", 2).open_graph("image_encoder", graph, record)
    for batch in (1, 3):
        feeds = {"image": np.stack([FRAME + shift for shift in range(batch)])}
        np.testing.assert_allclose(
            session.run(feeds)["image_embeddings"],
            expected.run(feeds)["image_embeddings"],
            atol=FLOAT32_TOLERANCE,
        )


def test_the_comparison_is_made_once_and_kept(
    disc_bundle: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="samus_edge"):
        first = prepare(disc_bundle)
        compared = [record for record in caplog.records if "comparing" in record.message]
        assert len(compared) == 1
        again = prepare(disc_bundle)
    assert [record for record in caplog.records if "comparing" in record.message] == compared
    np.testing.assert_array_equal(first.low_res_logits, again.low_res_logits)
    (kept,) = json.loads(next(cache.glob("*.json")).read_text())["verdicts"].values()
    assert kept["check"]["masks"] == 32
    assert kept["precision"] in kept["milliseconds"]
    assert all(milliseconds > 0 for milliseconds in kept["milliseconds"].values())


def slower(verdict: dict[str, Any]) -> None:
    verdict["milliseconds"] = {"onnxruntime": 10.0, verdict["precision"]: 10.1}


def faster(verdict: dict[str, Any]) -> None:
    verdict["milliseconds"] = {"onnxruntime": 10.0, verdict["precision"]: 5.0}


def wrong(verdict: dict[str, Any]) -> None:
    faster(verdict)
    verdict["check"]["worst_mask_iou"] = 0.5


@pytest.mark.parametrize(
    ("change", "taken"), [(faster, "openvino"), (slower, "onnxruntime"), (wrong, "onnxruntime")]
)
def test_auto_takes_what_was_found_right_and_faster(
    disc_bundle: Path, prepared_cache: Path, change: Callable[[dict[str, Any]], None], taken: str
) -> None:
    change_verdict(prepared_cache, change)
    with Segmenter.load(disc_bundle, threads=2) as segmenter:
        assert segmenter.backend.name == taken
    with Segmenter.load(disc_bundle, threads=1) as other_threads:
        assert other_threads.backend.name == "onnxruntime"


def test_a_wrong_one_is_refused_by_name(disc_bundle: Path, prepared_cache: Path) -> None:
    change_verdict(prepared_cache, wrong)
    with pytest.raises(BackendError, match=r"worst mask IoU 0\.5.*required 0\.96"):
        prepare(disc_bundle)


def test_without_a_verdict_auto_does_not_load_openvino(disc_bundle: Path, cache: Path) -> None:
    script = (
        "import sys; from samus_edge.runtime import Segmenter; "
        "Segmenter.load(sys.argv[1]).close(); print('openvino' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(disc_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def damage_graphs(cache: Path) -> None:
    for path in cache.glob("*.blob"):
        path.write_bytes(path.read_bytes()[:-100])


def damage_verdicts(cache: Path) -> None:
    for path in cache.glob("*.json"):
        path.write_text('{"verdicts": [')


def forge_graphs(cache: Path) -> None:
    """Whole, but nothing that OpenVINO reads."""
    for path in cache.glob("*.blob"):
        path.write_bytes(hashlib.sha256(b"nothing").digest() + b"nothing")


@pytest.mark.parametrize("damage", [damage_graphs, damage_verdicts, forge_graphs])
def test_a_damaged_cache_is_made_again(
    disc_bundle: Path,
    prepared_cache: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = prepare(disc_bundle)
    damage(prepared_cache)
    with caplog.at_level(logging.INFO, logger="samus_edge"):
        np.testing.assert_array_equal(prepare(disc_bundle).masks, expected.masks)
        assert caplog.records
        caplog.clear()
        prepare(disc_bundle)
        assert not caplog.records


def test_a_cache_that_cannot_be_written_costs_time_alone(
    disc_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    assert prepare(disc_bundle).masks.any()


def test_processes_that_start_at_once_share_an_empty_cache(disc_bundle: Path, cache: Path) -> None:
    script = (
        "import sys; from samus_edge.runtime import Segmenter; "
        "Segmenter.load(sys.argv[1], backend='openvino', threads=2).close()"
    )
    command = [sys.executable, "-c", script, str(disc_bundle)]
    started = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    assert len(list(cache.glob("*.json"))) == 1
    assert not [path for path in cache.iterdir() if path.suffix not in (".json", ".blob")]
    assert prepare(disc_bundle).masks.any()


def test_threads_that_share_a_segmenter_get_what_one_gets(
    openvino_cache: Path, asset_frames: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(openvino_cache))
    frames = asset_frames[::7]

    def logits(segmenter: Segmenter) -> list[Any]:
        return [
            segmenter.segment(frame.image, boxes=frame.box[None]).low_res_logits for frame in frames
        ]

    with Segmenter.load(backend="openvino", threads=2) as segmenter:
        serial = logits(segmenter)
        with ThreadPoolExecutor(4) as pool:
            parallel = list(pool.map(lambda _: logits(segmenter), range(4)))
    for each in parallel:
        np.testing.assert_array_equal(each, serial)


def test_a_closed_segmenter_says_so(disc_bundle: Path) -> None:
    segmenter = Segmenter.load(disc_bundle, backend="openvino", threads=1)
    embedding = segmenter.encode(FRAME)
    segmenter.close()
    with pytest.raises(RuntimeError, match="is closed"):
        segmenter.predict(embedding, boxes=BOXES)


def test_a_device_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(BackendError, match=r"no device TPU on this machine; it has .*CPU"):
        OpenVinoBackend(device="TPU")


def test_what_is_no_graph_is_refused(disc_bundle: Path, cache: Path) -> None:
    record = Bundle.open(disc_bundle).graph_record("image_encoder")
    with pytest.raises(BackendError, match=r"cannot read image_encoder\.onnx"):
        OpenVinoBackend(1).open_graph("image_encoder", b"no graph", record)


def test_a_device_that_compiles_for_every_size_computes_the_same(
    disc_bundle: Path, asset_frames: list[Any]
) -> None:
    opened = Bundle.open(disc_bundle)
    graph, record = opened.read_graph("image_encoder"), opened.graph_record("image_encoder")
    session = OpenVinoBackend(1).open_graph("image_encoder", graph, record)
    session._is_fixed = True  # as on a GPU or NPU, which are not here
    expected = select_backend("onnxruntime", 1).open_graph("image_encoder", graph, record)
    for frame in (*asset_frames[:6], asset_frames[0]):  # more sizes than are kept at a time
        feeds = {"image": frame.image[None]}
        for name, array in expected.run(feeds).items():
            np.testing.assert_allclose(session.run(feeds)[name], array, rtol=1e-2, atol=1e-2)
    assert len(session._requests) == 4
