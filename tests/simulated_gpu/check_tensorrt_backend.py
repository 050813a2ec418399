"""The whole way from a bundle to masks on the TensorRT backend, on the simulated driver.

One test takes the default bundle; the others take that of `tests/discs.py`, which is quick.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulated_tensorrt as trt
from samus_edge.errors import BackendError
from samus_edge.jobs.doctor import diagnose
from samus_edge.runtime import Segmenter
from samus_edge.runtime.backends.backend import open_bundle_graph
from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.backends.tensorrt import tensorrt_backend
from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions, ShapeRange
from samus_edge.runtime.backends.tensorrt.engine_check import EngineCheck, compare_predictors
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

    monkeypatch.setattr(tensorrt_backend, "build_engine", build)
    before = dict(trt.faults)
    yield built
    trt.faults.update(before)


@pytest.fixture
def open_segmenter(device: Device, disc_bundle: Path, tmp_path: Path) -> Callable[..., Segmenter]:
    """Opens a bundle, that of the discs if none is given, on the simulated TensorRT."""

    def open_it(
        bundle: Bundle | None = None,
        library: TensorRTLibrary = trt.simulated_library,
        cache: Path = tmp_path,
        **options: Any,
    ) -> Segmenter:
        backend = TensorRTBackend(
            TensorRTOptions(cache=cache, **options), library=library, device=device
        )
        return Segmenter(bundle or Bundle.open(disc_bundle), backend)

    return open_it


Open = Callable[..., Segmenter]
FRAMES = load_check_frames()
GRAPHS = ["image_encoder", "mask_decoder"]


def test_masks_are_those_of_onnx_runtime(
    driver: SimulatedDriver, builds: list[str], open_segmenter: Open
) -> None:
    frame, bundle = FRAMES[0], Bundle.open()
    with open_segmenter(bundle) as segmenter, Segmenter(bundle, OnnxRuntimeBackend(1)) as reference:
        assert builds == GRAPHS
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
    open_segmenter: Open, disc_segmenter: Segmenter
) -> None:
    corners = np.random.default_rng(0).uniform(5, 120, (9, 2))
    boxes = np.concatenate([corners, corners + np.array([60, 90])], axis=1)
    with open_segmenter(engine=EngineOptions(max_prompts=4)) as segmenter:
        mine = segmenter.segment(FRAMES[1].image, boxes=boxes)
    theirs = disc_segmenter.segment(FRAMES[1].image, boxes=boxes)
    np.testing.assert_array_equal(mine.masks, theirs.masks)


def test_more_points_than_an_engine_takes_are_refused(open_segmenter: Open) -> None:
    message = r"point_coords is \(1, 4, 2\), and the engine takes .* samus-edge build"
    with (
        open_segmenter(engine=EngineOptions(max_points=3)) as segmenter,
        pytest.raises(ValueError, match=message),
    ):
        segmenter.segment(FRAMES[1].image, point_coords=[[[9, 9]] * 4], point_labels=[[1] * 4])


def test_engines_are_built_and_checked_once(
    builds: list[str], open_segmenter: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(*_: Any) -> Any:
        raise AssertionError("checked again")

    open_segmenter().close()
    monkeypatch.setattr(tensorrt_backend, "compare_predictors", compare)
    open_segmenter().close()
    assert builds == GRAPHS


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"scale": 0.5}, r"do not compute what .* \(32 masks on 8 frames\): mean mask IoU 0\.\d+"),
        ({"nan": True}, r"benign_120\.png: tensorrt .* gave NaN or infinite logits"),
    ],
)
def test_wrong_engines_are_not_used_and_the_verdict_is_of_this_driver(
    driver: SimulatedDriver,
    device: Device,
    open_segmenter: Open,
    fault: dict[str, Any],
    message: str,
) -> None:
    sound = dict(trt.faults)
    trt.faults.update(fault)
    with pytest.raises(BackendError, match=message):
        open_segmenter()
    assert driver.live() == {"primary": 1}
    trt.faults.update(sound)
    with pytest.raises(BackendError, match=message):  # as it was found
        open_segmenter()
    device.info = replace(device.info, driver_version="13.1")
    open_segmenter().close()


def test_a_damaged_engine_is_built_again(
    tmp_path: Path, builds: list[str], open_segmenter: Open, caplog: pytest.LogCaptureFixture
) -> None:
    open_segmenter().close()
    for plan in tmp_path.glob("*.plan"):
        plan.write_bytes(plan.read_bytes()[:-1])
    open_segmenter().close()
    assert builds == GRAPHS * 2
    assert "is damaged" in caplog.text


def test_an_engine_of_another_version_or_gpu_is_not_used(
    device: Device, builds: list[str], open_segmenter: Open
) -> None:
    open_segmenter().close()
    newer = replace(trt.simulated_library, version="10.99.1")
    message = "no engine of graph 'image_encoder' .* built by tensorrt 10.99.0, here is 10.99.1"
    with pytest.raises(BackendError, match=message):
        open_segmenter(library=newer, build_missing=False)
    here = device.info
    for change, other in (
        ({"name": "Other GPU"}, r"Other GPU \(20 multiprocessors, 8 GiB\)"),
        ({"multiprocessors": 8}, r"Simulated GPU \(8 multiprocessors, 8 GiB\)"),
        ({"total_memory_bytes": 1 << 36}, r"Simulated GPU \(20 multiprocessors, 64 GiB\)"),
    ):
        device.info = replace(here, **change)
        with pytest.raises(BackendError, match=f"built on Simulated GPU .*, this GPU is {other}"):
            open_segmenter(build_missing=False)
    open_segmenter().close()
    assert builds == GRAPHS * 2


def test_a_cache_that_cannot_be_written_to_is_no_reason_not_to_segment(
    tmp_path: Path, open_segmenter: Open, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with open_segmenter(cache=blocked / "cache") as segmenter:
        assert segmenter.segment(FRAMES[0].image, boxes=FRAMES[0].box[None]).masks.any()
    assert "is used, but not kept" in caplog.text


def test_a_version_that_is_known_to_be_wrong_is_refused_unless_forced(
    open_segmenter: Open, caplog: pytest.LogCaptureFixture
) -> None:
    bad = replace(trt.simulated_library, version="10.3.0.30")
    message = r"TensorRT 10\.3\.0\.30 gives wrong results .*force=True"
    with pytest.raises(BackendError, match=message):
        open_segmenter(library=bad)
    open_segmenter(library=bad, force=True).close()
    assert "used because that was forced" in caplog.text


def test_engines_of_one_frame_size_take_no_other_and_are_found_again(
    builds: list[str], open_segmenter: Open
) -> None:
    fixed = {"engine": EngineOptions(frames=ShapeRange.fixed((300, 400)))}
    for options in (fixed, {}):
        with open_segmenter(**options) as segmenter:
            image = np.full((300, 400), 90, np.uint8)
            prediction = segmenter.segment(image, boxes=[[10, 10, 90, 90]])
            assert prediction.masks.shape == (1, 1, 300, 400)
            with pytest.raises(ValueError, match=r"image is \(1, 301, 400\), and the engine takes"):
                segmenter.encode(np.zeros((301, 400), np.uint8))
    assert builds == GRAPHS


def test_engines_of_several_options_live_side_by_side(
    builds: list[str],
    disc_bundle: Path,
    device: Device,
    tmp_path: Path,
    open_segmenter: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With options, the engine of these and no other; without, a frame's narrowest engine."""
    fixed = EngineOptions(frames=ShapeRange.fixed((300, 400)))
    for engine in (EngineOptions(), fixed, replace(fixed, tf32=True), EngineOptions(), fixed):
        open_segmenter(engine=engine).close()
    graphs = ["image_encoder", "mask_decoder", "image_encoder", *GRAPHS]  # no size in the decoder
    assert builds == graphs
    backend = TensorRTBackend(
        TensorRTOptions(cache=tmp_path, engine=replace(fixed, frames_per_run=4)),
        library=trt.simulated_library,
        device=device,
    )
    bundle = Bundle.open(disc_bundle)
    with contextlib.closing(open_bundle_graph(backend, bundle, "image_encoder")) as batched:
        assert batched.largest("image", 0) == 4
    assert len(builds) == 6

    compared: list[EngineCheck] = []

    def compare(*those: Any) -> EngineCheck:
        compared.append(compare_predictors(*those))
        return compared[-1]

    monkeypatch.setattr(tensorrt_backend, "compare_predictors", compare)
    for checks in tmp_path.glob("*.checks.json"):
        checks.unlink()
    for seen in (2, 2):  # each encoder once: that of any frame, and the newest of the fixed size
        with open_segmenter() as segmenter:
            assert len(compared) == seen
            before = trt.live["engines"]
            for hw in ((300, 400), (301, 400), (300, 400)):
                image = np.full(hw, 90, np.uint8)
                masks = segmenter.segment(image, boxes=[[10, 10, 90, 90]]).masks
                assert masks.shape == (1, 1, *hw)
    assert before == 2  # the second encoder was not needed before the second frame
    assert len(builds) == 6


def test_rtx_compiles_once_on_a_machine_and_never_for_a_new_number_of_clicks_or_boxes(
    tmp_path: Path, open_segmenter: Open, disc_segmenter: Segmenter
) -> None:
    frame, rng = FRAMES[0], np.random.default_rng(0)
    height, width = frame.image.shape
    options = {"library": trt.simulated_rtx, "engine": EngineOptions(max_points=6, max_prompts=8)}

    def segment() -> int:
        """Everything that an operator does; the number of shapes that were compiled for it."""
        trt.compiled.clear()
        with open_segmenter(**options) as segmenter:
            loaded = len(trt.compiled)
            embedding = segmenter.encode(frame.image)
            assert len(trt.compiled) - loaded <= 1  # a frame of a new size
            loaded = len(trt.compiled)
            expected = disc_segmenter.encode(frame.image)
            for clicks in range(1, 5):
                coords = rng.uniform((10, 10), (width - 10, height - 10), (1, clicks, 2))
                np.testing.assert_array_equal(
                    segmenter.predict(embedding, point_coords=coords).masks,
                    disc_segmenter.predict(expected, point_coords=coords).masks,
                )
            for count in range(1, 9):
                boxes = frame.box + np.arange(count)[:, None]
                np.testing.assert_array_equal(
                    segmenter.predict(embedding, boxes=boxes).masks,
                    disc_segmenter.predict(expected, boxes=boxes).masks,
                )
            assert len(trt.compiled) == loaded
        return len(trt.compiled)

    assert segment() > 0
    assert len(list(tmp_path.glob("*.runtime"))) == 2
    assert segment() == 0
    for path in tmp_path.glob("*.runtime"):
        path.write_bytes(b"of another driver")
    assert segment() > 0
    assert segment() == 0


def test_threads_share_a_segmenter(
    driver: SimulatedDriver, open_segmenter: Open, disc_segmenter: Segmenter
) -> None:
    frames = FRAMES[:4]
    expected = [disc_segmenter.segment(each.image, boxes=each.box[None]).masks for each in frames]
    wrong: list[int] = []
    with open_segmenter() as segmenter:

        def work(index: int) -> None:
            for _ in range(10):
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


@pytest.fixture
def simulated_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the simulated TensorRT be found like an installed one, with the cache `tmp_path`."""
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(tensorrt_backend, "find_tensorrt", lambda flavour: trt.simulated_library)
    monkeypatch.setattr(tensorrt_backend, "installed_flavour", lambda flavour: "tensorrt")


@pytest.mark.usefixtures("simulated_installed")
@pytest.mark.parametrize("device", ["cuda:1", 1, "1"])
def test_a_segmenter_computes_on_the_gpu_that_is_named(
    driver: SimulatedDriver,
    disc_bundle: Path,
    disc_segmenter: Segmenter,
    monkeypatch: pytest.MonkeyPatch,
    device: str | int,
) -> None:
    monkeypatch.setenv("SIM_CUDA_DEVICES", "2")
    frame = FRAMES[0]
    expected = disc_segmenter.segment(frame.image, boxes=frame.box[None]).masks
    with (
        Segmenter.load(disc_bundle, backend="tensorrt") as first,
        Segmenter.load(disc_bundle, device=device) as second,  # whose engines are there
    ):
        assert (first.backend.name, second.backend.name) == ("tensorrt", "tensorrt")
        assert [each.backend.gpu.info.index for each in (first, second) if each.backend.gpu] == [
            0,
            1,
        ]
        for segmenter in (first, second, first):
            masks = segmenter.segment(frame.image, boxes=frame.box[None]).masks
            np.testing.assert_array_equal(masks, expected)
        assert min(driver.bytes_of(0), driver.bytes_of(1)) > 1_000_000
    assert (driver.bytes_of(0), driver.bytes_of(1)) == (0, 0)
    with pytest.raises(BackendError, match="cannot find GPU 2"):
        Segmenter.load(disc_bundle, backend="tensorrt", device=2)


@pytest.mark.usefixtures("simulated_installed")
def test_doctor_segments_on_an_engine_of_one_frame_size(open_segmenter: Open) -> None:
    engine = EngineOptions(frames=ShapeRange.fixed((300, 400)))
    open_segmenter(Bundle.open(), engine=engine).close()
    found = diagnose()
    (segments,) = (
        each for each in found.findings if each.topic == "tensorrt" and "ms" in each.text
    )
    assert segments.level == "ok"
    assert "segments on Simulated GPU (TensorRT 10.99.0), a frame in" in segments.text
    assert found.facts["auto"] == "tensorrt"


@pytest.mark.usefixtures("simulated_installed")
def test_auto_takes_checked_engines_and_falls_back_from_failing_ones(
    device: Device, disc_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def taken(backend: str) -> str:
        with Segmenter.load(disc_bundle, backend=backend) as segmenter:
            return segmenter.backend.name

    assert taken("auto") == "onnxruntime"
    assert "not tensorrt: there is no engine of graph 'image_encoder'" in caplog.text
    assert taken("tensorrt") == "tensorrt"  # by name it builds
    assert taken("auto") == "tensorrt"
    for checks in tmp_path.glob("*.checks.json"):
        checks.unlink()
    trt.faults["scale"] = 0.5
    caplog.clear()
    assert taken("auto") == "onnxruntime"
    assert "do not compute what their graphs compute" in caplog.text
    with pytest.raises(BackendError, match="do not compute"):
        taken("tensorrt")


def test_bench_and_soak_measure_on_the_gpu(
    device: Device, disc_bundle: Path, tmp_path: Path, open_segmenter: Open
) -> None:
    from samus_edge.benchmarking.bench_results import rows_of
    from samus_edge.benchmarking.runtime_subject import RuntimeSubject
    from samus_edge.benchmarking.subject import Workload
    from samus_edge.benchmarking.turns import soak, time_in_turns

    workload = Workload.of(FRAMES[0].image, prompts=(1, 2))
    backend = TensorRTBackend(
        TensorRTOptions(cache=tmp_path), library=trt.simulated_library, device=device
    )
    subject = RuntimeSubject(Bundle.open(disc_bundle), backend, "auto", workload)
    rows = rows_of(time_in_turns([subject], rounds=1, runs=2))
    assert [(row.stage, row.items, row.device is not None) for row in rows] == [
        ("image_encoder", 1, True),
        ("mask_decoder", 1, True),
        ("mask_decoder", 2, True),
        ("end_to_end", 1, False),
    ]
    assert subject.is_on_gpu and subject.gpu_memory_bytes is not None
    assert subject.gpu_memory_bytes > 0
    subject.close()
    trt.faults["uncapturable"] = True
    subject = RuntimeSubject(Bundle.open(disc_bundle), backend, "auto", workload)
    assert subject.version == "TensorRT 10.99.0, without CUDA graphs"
    subject.close()
    trt.faults["uncapturable"] = False
    with open_segmenter() as segmenter:
        found = soak(segmenter, FRAMES[:2], 4)
    assert (found.differing, found.gpu_memory_growth_bytes) == (0, 0)
