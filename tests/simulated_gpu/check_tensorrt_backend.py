"""The whole way from a bundle to masks on the TensorRT backend, on the simulated driver."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulated_tensorrt as trt
from samus_edge.errors import BackendError
from samus_edge.runtime import Segmenter
from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.backends.tensorrt import tensorrt_backend as engine_provider
from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions, ShapeRange
from samus_edge.runtime.backends.tensorrt.tensorrt_backend import TensorRTBackend, TensorRTOptions
from samus_edge.runtime.backends.tensorrt.tensorrt_library import TensorRTLibrary
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.check_frame import load_check_frames
from simulated_driver import SimulatedDriver


@pytest.fixture(autouse=True)
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lets the simulated TensorRT build; gives the names of the graphs that were built."""
    built: list[str] = []

    def build(graph: bytes, *, name: str, profiles: Any, **_: Any) -> bytes:
        built.append(name)
        return trt.serialize(graph, profiles)

    monkeypatch.setattr(engine_provider, "build_engine", build)
    before = dict(trt.faults)
    yield built
    trt.faults.update(before)


@pytest.fixture(scope="module")
def reference() -> Iterator[Segmenter]:
    """The default bundle on ONNX Runtime."""
    with Segmenter(Bundle.open(), OnnxRuntimeBackend(1)) as segmenter:
        yield segmenter


def _segmenter(
    device: Any, cache: Path, library: TensorRTLibrary = trt.simulated_library, **options: Any
) -> Segmenter:
    backend = TensorRTBackend(
        TensorRTOptions(cache=cache, **options), library=library, device=device
    )
    return Segmenter(Bundle.open(), backend)


def _pretend(device: Any, **changes: str) -> None:
    """Let the GPU be another."""
    device.info = replace(device.info, **changes)


def test_masks_are_those_of_onnx_runtime(
    device: Device, driver: SimulatedDriver, tmp_path: Path, builds: list[str], reference: Segmenter
) -> None:
    frame = load_check_frames()[0]
    with _segmenter(device, tmp_path) as segmenter:
        assert builds == ["image_encoder", "mask_decoder"]
        assert (segmenter.backend.name, segmenter.backend.device) == ("tensorrt", "Simulated GPU")
        embedding = segmenter.encode(frame.image)
        assert isinstance(embedding.tensor, DeviceTensor)
        expected = reference.encode(frame.image)
        np.testing.assert_allclose(
            embedding.image_embeddings, expected.image_embeddings, rtol=1e-4, atol=1e-4
        )
        for multimask in (False, True):
            prompts: dict[str, Any] = {"boxes": frame.box[None], "multimask_output": multimask}
            mine, theirs = (
                segmenter.predict(embedding, **prompts),
                reference.predict(expected, **prompts),
            )
            np.testing.assert_array_equal(mine.masks, theirs.masks)
            np.testing.assert_allclose(mine.iou_predictions, theirs.iou_predictions, atol=1e-4)
        refined = segmenter.predict(
            embedding, boxes=frame.box[None], mask_input=mine.low_res_logits[:, :1]
        )
        assert refined.masks.shape == (1, 1, *frame.image.shape)
    del embedding
    assert driver.live() == {"primary": 1}


def test_more_prompts_than_an_engine_takes_are_split(
    device: Device, tmp_path: Path, reference: Segmenter
) -> None:
    frame = load_check_frames()[1]
    rng = np.random.default_rng(0)
    corners = rng.uniform(5, 120, (9, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 100, (9, 2))], axis=1)
    options = EngineOptions(max_prompts=4)
    with _segmenter(device, tmp_path, engine=options) as segmenter:
        mine = segmenter.segment(frame.image, boxes=boxes)
    theirs = reference.segment(frame.image, boxes=boxes)
    np.testing.assert_array_equal(mine.masks, theirs.masks)


def test_more_points_than_an_engine_takes_are_refused(device: Device, tmp_path: Path) -> None:
    frame = load_check_frames()[1]
    with (
        _segmenter(device, tmp_path, engine=EngineOptions(max_points=3)) as segmenter,
        pytest.raises(
            ValueError,
            match=r"point_coords is \(1, 5, 2\), and the engine takes .* samus-edge build",
        ),
    ):
        segmenter.segment(frame.image, point_coords=[[[9, 9]] * 4], point_labels=[[1] * 4])


def test_engines_are_built_and_checked_once(
    device: Device, tmp_path: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _segmenter(device, tmp_path).close()
    from samus_edge.runtime.backends.tensorrt import tensorrt_backend as checked_engines

    def compare(*_: Any) -> Any:
        raise AssertionError("checked again")

    monkeypatch.setattr(checked_engines, "compare_predictors", compare)
    _segmenter(device, tmp_path).close()
    assert builds == ["image_encoder", "mask_decoder"]


def test_engines_that_compute_something_else_are_not_used(
    device: Device, driver: SimulatedDriver, tmp_path: Path
) -> None:
    trt.faults["scale"] = 0.5
    message = (
        r"do not compute what .* \(32 masks on 8 frames\): mean mask IoU 0\.\d+, required 0.995"
    )
    for _ in range(2):  # the second time it is recalled
        with pytest.raises(BackendError, match=message):
            _segmenter(device, tmp_path)
    assert driver.live() == {"primary": 1}


def test_engines_that_give_nan_are_not_used(device: Device, tmp_path: Path) -> None:
    trt.faults["nan"] = True
    with pytest.raises(
        BackendError, match=r"benign_120\.png: tensorrt .* gave NaN or infinite logits"
    ):
        _segmenter(device, tmp_path)


def test_a_check_is_of_these_engines_on_this_driver(
    device: Device, tmp_path: Path, builds: list[str]
) -> None:
    trt.faults["scale"] = 0.5
    with pytest.raises(BackendError):
        _segmenter(device, tmp_path)
    trt.faults["scale"] = 1.0
    with pytest.raises(BackendError):  # as it was found
        _segmenter(device, tmp_path)
    _pretend(device, driver_version="13.1")
    _segmenter(device, tmp_path).close()


def test_a_damaged_engine_is_built_again(
    device: Device, tmp_path: Path, builds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    _segmenter(device, tmp_path).close()
    for plan in tmp_path.glob("*.plan"):
        plan.write_bytes(plan.read_bytes()[:-1])
    _segmenter(device, tmp_path).close()
    assert builds == ["image_encoder", "mask_decoder"] * 2
    assert "is damaged" in caplog.text


def test_an_engine_of_another_version_or_gpu_is_not_used(
    device: Device, tmp_path: Path, builds: list[str]
) -> None:
    _segmenter(device, tmp_path).close()
    newer = replace(trt.simulated_library, version="10.99.1")
    message = "no engine of graph 'image_encoder' .* built by tensorrt 10.99.0, here is 10.99.1"
    with pytest.raises(BackendError, match=message):
        _segmenter(device, tmp_path, library=newer, build_missing=False)
    _pretend(device, name="Other GPU")
    with pytest.raises(BackendError, match="built on Simulated GPU, this GPU is Other GPU"):
        _segmenter(device, tmp_path, build_missing=False)
    _segmenter(device, tmp_path).close()
    assert len(builds) == 4


def test_a_cache_that_cannot_be_written_to_is_no_reason_not_to_segment(
    device: Device, tmp_path: Path, builds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with _segmenter(device, blocked / "cache") as segmenter:
        frame = load_check_frames()[0]
        assert segmenter.segment(frame.image, boxes=frame.box[None]).masks.any()
    assert "is used, but not kept" in caplog.text


def test_a_version_that_is_known_to_be_wrong_is_refused_unless_forced(
    device: Device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = replace(trt.simulated_library, version="10.3.0.30")
    with pytest.raises(
        BackendError, match=r"TensorRT 10\.3\.0\.30 gives wrong results .*force=True"
    ):
        _segmenter(device, tmp_path, library=bad)
    _segmenter(device, tmp_path, library=bad, force=True).close()
    assert "used because that was forced" in caplog.text


def test_one_frame_size(device: Device, tmp_path: Path) -> None:
    options = EngineOptions(frames=ShapeRange.fixed((300, 400)))
    with _segmenter(device, tmp_path, engine=options) as segmenter:
        image = np.full((300, 400), 90, np.uint8)
        assert segmenter.segment(image, boxes=[[10, 10, 90, 90]]).masks.shape == (1, 1, 300, 400)
        with pytest.raises(ValueError, match=r"image is \(1, 301, 400\), and the engine takes"):
            segmenter.encode(np.zeros((301, 400), np.uint8))


def test_engines_that_were_built_last_are_used(
    device: Device, tmp_path: Path, builds: list[str]
) -> None:
    options = EngineOptions(frames=ShapeRange.fixed((300, 400)))
    _segmenter(device, tmp_path, engine=options).close()
    with _segmenter(device, tmp_path) as segmenter:
        assert builds == ["image_encoder", "mask_decoder"]
        with pytest.raises(ValueError, match="the engine takes"):
            segmenter.encode(np.zeros((301, 400), np.uint8))


def test_threads_share_a_segmenter(
    device: Device, driver: SimulatedDriver, tmp_path: Path, reference: Segmenter
) -> None:
    frames = load_check_frames()[:4]
    expected = [reference.segment(frame.image, boxes=frame.box[None]).masks for frame in frames]
    wrong: list[int] = []
    with _segmenter(device, tmp_path) as segmenter:

        def work(index: int) -> None:
            for _ in range(3):
                frame = frames[index]
                masks = segmenter.segment(frame.image, boxes=frame.box[None]).masks
                if not np.array_equal(masks, expected[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert driver.live() == {"primary": 1}


def test_auto_takes_checked_engines_and_falls_back_from_failing_ones(
    device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from samus_edge.runtime.backends.tensorrt import tensorrt_backend

    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(tensorrt_backend, "find_tensorrt", lambda flavour: trt.simulated_library)
    monkeypatch.setattr(tensorrt_backend, "installed_flavour", lambda flavour: "tensorrt")
    caplog.set_level(logging.INFO)
    with Segmenter.load() as segmenter:
        assert segmenter.backend.name == "onnxruntime"
    assert "not tensorrt: there is no engine of graph 'image_encoder'" in caplog.text
    with Segmenter.load(backend="tensorrt") as segmenter:  # by name it builds
        assert segmenter.backend.name == "tensorrt"
    with Segmenter.load() as segmenter:
        assert segmenter.backend.name == "tensorrt"
    for checks in tmp_path.glob("*.checks.json"):
        checks.unlink()
    trt.faults["scale"] = 0.5
    caplog.clear()
    with Segmenter.load() as segmenter:
        assert segmenter.backend.name == "onnxruntime"
    assert "do not compute what their graphs compute" in caplog.text
    with pytest.raises(BackendError, match="do not compute"):
        Segmenter.load(backend="tensorrt")
