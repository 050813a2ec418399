"""Sessions of TensorRT on the simulated driver: numbers, shapes, threads, graphs, memory."""

import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

import simulated_tensorrt as trt
from samus_edge.errors import BackendError
from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor
from samus_edge.runtime.backends.tensorrt.engine_build import ShapeRange
from samus_edge.runtime.backends.tensorrt.tensorrt_engine import TensorRTEngine
from samus_edge.runtime.backends.tensorrt.tensorrt_session import TensorRTSession
from samus_edge.runtime.bundle.manifest import GraphRecord, TensorSpec
from simulated_driver import SimulatedDriver

Array = npt.NDArray[Any]

HAS_GRAPHS = os.environ["SIM_BINDING"] == "cuda-python"
PROFILES = (
    {"x": ShapeRange((1, 4), (1, 4), (1, 4)), "y": ShapeRange((1, 1), (1, 1), (1, 1))},
    {"x": ShapeRange((1, 4), (2, 4), (5, 4)), "y": ShapeRange((1, 1), (2, 1), (5, 1))},
)


def _graph() -> bytes:
    """z = x * y + 1, rows in common."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1]),
    ]
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["rows", 4])
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    nodes = [
        helper.make_node("Mul", ["x", "y"], ["product"]),
        helper.make_node("Add", ["product", "one"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [output], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


RECORD = GraphRecord(
    file="g.onnx",
    sha256="0" * 64,
    size_bytes=1,
    precision="fp32",
    weight_storage="fp32",
    opset=20,
    inputs=(TensorSpec("x", "float32", ("rows", 4)), TensorSpec("y", "float32", ("rows", 1))),
    outputs=(TensorSpec("z", "float32", ("rows", 4)),),
)


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    """Every test begins and ends with a TensorRT that works."""
    before = dict(trt.faults)
    yield
    trt.faults.update(before)


def _session(device: Device, **options: Any) -> TensorRTSession:
    with device.current():
        engine = TensorRTEngine(
            "g", trt.serialize(_graph(), PROFILES), library=trt.simulated_library, device=device
        )
    return TensorRTSession(engine, RECORD, **options)


def _feeds(rows: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.random((rows, 4), np.float32),
        "y": rng.random((rows, 1), np.float32),
    }


def _expected(feeds: dict[str, Array]) -> Array:
    return feeds["x"] * feeds["y"] + 1


def test_it_computes_every_shape_of_its_profiles(device: Device, driver: SimulatedDriver) -> None:
    session = _session(device)
    for rows in (1, 5, 2, 1, 1, 1, 3, 3, 3):
        feeds = _feeds(rows, rows)
        np.testing.assert_allclose(session.run(feeds)["z"], _expected(feeds), rtol=1e-6)
    assert session.largest("x", 0) == 5
    session.close()
    assert driver.live() == {"primary": 1}
    assert trt.live == {"engines": 0, "contexts": 0}


def test_results_are_the_callers_own(device: Device) -> None:
    session = _session(device)
    first = session.run(_feeds(1, 1))["z"]
    kept = first.copy()
    session.run(_feeds(1, 2))
    np.testing.assert_array_equal(first, kept)
    session.close()


@pytest.mark.skipif(not HAS_GRAPHS, reason="PyCUDA has no CUDA graphs")
def test_the_second_run_of_a_shape_is_captured_and_later_ones_are_launched(
    device: Device, driver: SimulatedDriver
) -> None:
    session = _session(device)
    begun = driver.counts()["launches"]
    launches: list[int] = []
    for rows in (2, 2, 2, 3, 2, 2):  # a change of shape drops the graph
        feeds = _feeds(rows, len(launches))
        np.testing.assert_allclose(session.run(feeds)["z"], _expected(feeds), rtol=1e-6)
        launches.append(driver.counts()["launches"] - begun)
    assert launches == [0, 1, 2, 2, 2, 3]
    assert driver.counts()["executables"] == 1
    session.close()
    assert driver.live() == {"primary": 1}


def test_without_graphs_nothing_is_captured(device: Device, driver: SimulatedDriver) -> None:
    session = _session(device, use_cuda_graphs=False)
    begun = driver.counts()["launches"]
    for _ in range(3):
        session.run(_feeds(2))
    assert driver.counts()["launches"] == begun
    session.close()


def test_what_cannot_be_captured_runs_all_the_same_and_is_said(
    device: Device, driver: SimulatedDriver, caplog: pytest.LogCaptureFixture
) -> None:
    trt.faults["uncapturable"] = True
    session = _session(device)
    begun = driver.counts()["launches"]
    for _ in range(3):
        feeds = _feeds(2)
        np.testing.assert_allclose(session.run(feeds)["z"], _expected(feeds), rtol=1e-6)
    assert driver.counts()["launches"] == begun
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "graph 'g' runs without a CUDA graph" in warning.message
    assert len(session.graph_losses) == 1
    session.close()


def test_outputs_that_stay_on_the_device_are_fed_to_the_next_run(
    device: Device, driver: SimulatedDriver
) -> None:
    session = _session(device)
    feeds = _feeds(2)
    kept = session.run_on_device(feeds)["z"]
    assert isinstance(kept, DeviceTensor)
    assert (kept.shape, kept.dtype.name, kept.nbytes) == ((2, 4), "float32", 32)
    session.run(_feeds(2, 7))  # does not touch what was kept
    np.testing.assert_allclose(kept.numpy(), _expected(feeds), rtol=1e-6)
    again = session.run({"x": kept, "y": feeds["y"]})["z"]
    np.testing.assert_allclose(
        again, _expected({"x": _expected(feeds), "y": feeds["y"]}), rtol=1e-6
    )
    session.close()
    assert driver.live()["allocations"] == 1  # the tensor outlives the session
    np.testing.assert_allclose(kept.numpy(), _expected(feeds), rtol=1e-6)
    del kept
    assert driver.live() == {"primary": 1}


def test_memory_that_another_library_still_reads_is_not_used_again(
    device: Device, driver: SimulatedDriver
) -> None:
    session = _session(device)
    kept = session.run_on_device(_feeds(2))["z"]
    assert isinstance(kept, DeviceTensor)
    expected = kept.numpy()
    with device.current():
        copy = device.allocate(kept.nbytes)
        driver.set_delays(of_default=100_000)
        address = kept.__cuda_array_interface__["data"][0]
        driver.copy_in_default_stream(copy.address, address, kept.nbytes)
        shape, dtype = kept.shape, kept.dtype
    del kept
    after = session.run_on_device(_feeds(2, 7))["z"]
    with device.current():
        device.synchronize()
    np.testing.assert_array_equal(DeviceTensor(device, copy, shape, dtype).numpy(), expected)
    del after
    session.close()
    copy.close()
    assert driver.live() == {"primary": 1}


@pytest.mark.filterwarnings("error")
def test_a_tensor_may_outlive_its_session_and_its_device(
    device: Device, driver: SimulatedDriver
) -> None:
    session = _session(device)
    kept = session.run_on_device(_feeds(2))["z"]
    session.close()
    device.close()
    del kept, session
    assert driver.live() == {}


@pytest.mark.skipif(not HAS_GRAPHS, reason="PyCUDA has no CUDA graphs")
def test_garbage_that_is_collected_during_a_capture_does_not_end_it(
    device: Device, driver: SimulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, forgotten = _session(device), [_session(device)]
    forgotten.append(forgotten)  # type: ignore[arg-type]  # a cycle, for the collector alone
    execute, runs = trt._Context.execute_async_v3, 0

    def collect(context: trt._Context, stream: int) -> bool:
        nonlocal forgotten, runs
        if runs == 1:
            forgotten = []
            gc.collect()
        runs += 1
        return execute(context, stream)

    monkeypatch.setattr(trt._Context, "execute_async_v3", collect)
    begun = driver.counts()["launches"]
    for seed in range(3):
        feeds = _feeds(2, seed)
        np.testing.assert_allclose(session.run(feeds)["z"], _expected(feeds), rtol=1e-6)
    assert driver.counts()["launches"] == begun + 2
    assert session.graph_losses == frozenset()
    session.close()
    assert driver.live() == {"primary": 1}


def test_memory_does_not_grow_over_a_thousand_frames(
    device: Device, driver: SimulatedDriver
) -> None:
    session = _session(device)
    for index in range(1_000):
        kept = session.run_on_device(_feeds(1 + index % 2, index))["z"]
        if index == 100:
            before = driver.live()
    assert driver.live() == before
    del kept
    session.close()
    assert driver.live() == {"primary": 1}


def test_threads_share_it_and_take_turns(device: Device, driver: SimulatedDriver) -> None:
    session = _session(device, max_contexts=2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for index in range(50):
            feeds = _feeds(1 + (seed + index) % 5, seed * 100 + index)
            if not np.allclose(session.run(feeds)["z"], _expected(feeds)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 1 <= trt.live["contexts"] <= 2
    session.close()
    session.close()
    assert driver.live() == {"primary": 1}
    with pytest.raises(RuntimeError, match="graph 'g' is closed"):
        session.run(_feeds(1))


def test_shapes_outside_the_profiles_are_refused_and_it_goes_on(device: Device) -> None:
    session = _session(device)
    message = r"x is \(6, 4\), and the engine takes \(1, 4\) to \(1, 4\) or \(1, 4\) to \(5, 4\)"
    with pytest.raises(ValueError, match=message):
        session.run(_feeds(6))
    with pytest.raises(ValueError, match=r"got x float64 \(1, 4\), expected x float32"):
        session.run({"x": np.zeros((1, 4)), "y": np.zeros((1, 1), np.float32)})
    feeds = _feeds(5)
    np.testing.assert_allclose(session.run(feeds)["z"], _expected(feeds), rtol=1e-6)
    session.close()


def test_it_times_the_engine_on_the_device(device: Device) -> None:
    session = _session(device)
    times = session.device_milliseconds(_feeds(2), runs=5)
    assert len(times) == 5
    assert all(0.0 < milliseconds < 1000.0 for milliseconds in times)
    session.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("fail", "fails in graph 'g' on Simulated GPU: Cuda Runtime"),
        (
            "no_shapes",
            r"cannot infer the shapes for .*'x': \(1, 4\).* error code: -1",
        ),
    ],
)
def test_a_failing_engine_is_an_error_with_its_words(
    device: Device, driver: SimulatedDriver, fault: str, message: str
) -> None:
    session = _session(device)
    trt.faults[fault] = True
    with pytest.raises(BackendError, match=message):
        session.run(_feeds(1))
    trt.faults[fault] = False
    feeds = _feeds(1)
    np.testing.assert_allclose(
        session.run(feeds)["z"], _expected(feeds), rtol=1e-6
    )  # a new context
    session.close()
    assert driver.live() == {"primary": 1}


def test_no_memory_for_a_context_says_how_much_it_needs(
    device: Device, driver: SimulatedDriver
) -> None:
    trt.faults["no_memory"] = True
    with pytest.raises(BackendError, match=r"OutOfMemory\. It needs 1 MB of the GPU, and 8590 MB"):
        _session(device)
    assert driver.live() == {"primary": 1}


def test_no_memory_for_buffers_leaves_nothing(device: Device, driver: SimulatedDriver) -> None:
    driver.set_memory(100)  # z alone takes 80 bytes of it, x another 80
    with pytest.raises(BackendError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        _session(device)
    assert driver.live() == {"primary": 1}
    assert trt.live == {"engines": 0, "contexts": 0}


def test_a_damaged_engine_is_refused(device: Device, driver: SimulatedDriver) -> None:
    with device.current(), pytest.raises(BackendError, match="the magic tag does not match"):
        TensorRTEngine("g", b"garbage", library=trt.simulated_library, device=device)


def test_a_session_that_nobody_closed_gives_all_back(
    device: Device, driver: SimulatedDriver
) -> None:
    session = _session(device)
    session.run(_feeds(2))
    del session
    assert driver.live() == {"primary": 1}
    assert trt.live == {"engines": 0, "contexts": 0}


def test_a_lost_gpu_is_an_error_in_every_run_and_closing_is_none(
    device: Device, driver: SimulatedDriver
) -> None:
    session = _session(device)
    driver.lose_after(3)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"CUDA cannot|fails in graph"):
            session.run(_feeds(1))
    session.close()


def test_the_graph_is_what_the_tests_think() -> None:
    onnx.checker.check_model(onnx.load_from_string(_graph()), full_check=True)
