"""The contract of `Device`, for either binding, on the simulated driver."""

import gc
import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.errors import BackendError
from samus_edge.runtime.backends.gpu.device import Device, driver_cuda_version
from samus_edge.runtime.backends.gpu.find_device import find_device, list_gpus
from simulated_driver import SimulatedDriver

Array = npt.NDArray[Any]

BINDING = os.environ["SIM_BINDING"]


def test_it_says_which_gpu_it_is(device: Device) -> None:
    assert device.binding == BINDING
    assert list_gpus(BINDING) == [device.info]
    assert driver_cuda_version() == "13.0"
    info = device.info
    assert (info.name, info.compute_capability, info.driver_version) == (
        "Simulated GPU",
        "8.6",
        "13.0",
    )
    assert (info.index, info.multiprocessors, info.clock_khz) == (0, 20, 1_500_000)
    assert info.total_memory_bytes == 1 << 33


def _round_trip(device: Device, content: Array) -> Array:
    with device.current():
        stream = device.create_stream()
        pinned = device.allocate_pinned(content.size)
        first, second = device.allocate(content.size), device.allocate(content.size)
        pinned.array[:] = content
        device.copy_to_device(first.address, pinned.address, content.size, stream)
        device.copy_on_device(second.address, first.address, content.size, stream)
        stream.synchronize()
        pinned.array[:] = 0
        device.copy_to_host(pinned.address, second.address, content.size, stream)
        stream.synchronize()
        result = np.array(pinned.array)
        for owned in (pinned, first, second):
            owned.close()
            owned.close()  # a second time does nothing
        stream.close()
        stream.close()
    return result


def test_what_goes_to_the_gpu_comes_back(device: Device, driver: SimulatedDriver) -> None:
    content = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
    np.testing.assert_array_equal(_round_trip(device, content), content)
    assert driver.live() == {"primary": 1}
    assert driver.depth == 0


def test_a_thousand_rounds_leave_nothing(device: Device, driver: SimulatedDriver) -> None:
    content = np.arange(64, dtype=np.uint8)
    for _ in range(1_000):
        _round_trip(device, content)
    assert driver.live() == {"primary": 1}


def test_threads_work_side_by_side(device: Device, driver: SimulatedDriver) -> None:
    results: dict[int, Array] = {}

    def work(seed: int) -> None:
        content = np.full(500, seed, np.uint8)
        for _ in range(20):
            results[seed] = _round_trip(device, content)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((results[seed] == seed).all() for seed in range(8))
    assert driver.live() == {"primary": 1}


def test_what_nobody_refers_to_is_given_back(device: Device, driver: SimulatedDriver) -> None:
    with device.current():
        kept = [device.allocate(10), device.allocate_pinned(10), device.create_stream()]
        kept.append(device.create_event())
    assert driver.live() == {
        "allocations": 1,
        "bytes": 10,
        "pinned": 1,
        "streams": 1,
        "events": 1,
        "primary": 1,
    }
    kept.clear()
    gc.collect()
    assert driver.live() == {"primary": 1}


def test_contexts_nest_and_leave_nothing_behind(device: Device, driver: SimulatedDriver) -> None:
    with device.current(), device.current():
        device.allocate(1).close()
    assert driver.depth == 0
    with pytest.raises(KeyError), device.current():
        raise KeyError
    assert driver.depth == 0


def test_nothing_works_on_a_device_that_was_given_back(
    device: Device, driver: SimulatedDriver
) -> None:
    device.close()
    device.close()
    assert driver.live() == {}
    with pytest.raises(RuntimeError, match="was given back"), device.current():
        pass


def test_events_time_what_lies_between_them(device: Device) -> None:
    with device.current():
        stream, start, end = device.create_stream(), device.create_event(), device.create_event()
        start.record(stream)
        end.record(stream)
        end.synchronize()
        assert 0.0 <= end.milliseconds_since(start) < 1000.0
        for owned in (start, end, stream):
            owned.close()


@pytest.mark.skipif(BINDING == "pycuda", reason="PyCUDA has no CUDA graphs")
def test_a_captured_graph_does_its_work_at_each_launch(
    device: Device, driver: SimulatedDriver
) -> None:
    with device.current():
        stream, buffer = device.create_stream(), device.allocate(4)
        pinned = device.allocate_pinned(4)

        def work() -> None:
            device.copy_to_device(buffer.address, pinned.address, 4, stream)

        graph = device.capture(stream, work)
        out = device.allocate_pinned(4)
        for value in (1, 2):
            pinned.array[:] = value
            graph.launch(stream)
            device.copy_to_host(out.address, buffer.address, 4, stream)
            stream.synchronize()
            assert (out.array == value).all()

        def fail() -> None:
            work()
            raise KeyError

        with pytest.raises(KeyError):
            device.capture(stream, fail)
        device.copy_to_host(out.address, buffer.address, 4, stream)  # the stream is usable
        graph.close()
        graph.close()
        for owned in (buffer, pinned, out):
            owned.close()
        stream.close()
    assert driver.live() == {"primary": 1}


@pytest.mark.skipif(BINDING == "pycuda", reason="PyCUDA has no CUDA graphs")
def test_what_is_given_back_during_a_capture_is_freed_after_it(
    device: Device, driver: SimulatedDriver
) -> None:
    with device.current():
        stream, pinned = device.create_stream(), device.allocate_pinned(4)
        buffers = [device.allocate(4) for _ in range(3)]
        cycle: list[Any] = [buffers.pop()]
        cycle.append(cycle)
        counts: list[int] = []

        def work() -> None:
            nonlocal cycle
            device.copy_to_device(buffers[0].address, pinned.address, 4, stream)
            del cycle
            gc.collect()
            buffers.pop().close()
            counts.append(driver.counts()["allocations"])

        device.capture(stream, work).launch(stream)
        stream.synchronize()
        assert counts == [3]
        assert driver.counts()["allocations"] == 1
        with pytest.raises(BackendError, match="CAPTURE"):
            device.capture(stream, stream.synchronize)
        device.capture(stream, lambda: None).close()  # the next one is not touched by it
        for owned in (*buffers, pinned, stream):
            owned.close()


@pytest.mark.skipif(BINDING != "pycuda", reason="cuda-python has CUDA graphs")
def test_what_pycuda_lacks_is_said(device: Device) -> None:
    with device.current(), pytest.raises(BackendError, match="PyCUDA cannot capture CUDA graphs"):
        device.capture(device.create_stream(), lambda: None)


def test_too_much_memory_is_an_error_that_says_how_much(
    device: Device, driver: SimulatedDriver
) -> None:
    driver.set_memory(1000)
    with device.current():
        assert device.free_memory_bytes() == 1000
        message = (
            "cannot allocate 1001 bytes of the GPU: CUDA_ERROR_OUT_OF_MEMORY. .* close what else"
        )
        with pytest.raises(BackendError, match=message):
            device.allocate(1001)
        device.allocate(1000).close()


def test_a_lost_gpu_is_an_error_and_giving_back_is_none(
    device: Device, driver: SimulatedDriver
) -> None:
    with device.current():
        stream, buffer = device.create_stream(), device.allocate(4)
        driver.lose_after(0)
        with pytest.raises(BackendError, match="cannot finish its work"):
            stream.synchronize()
        buffer.close()
        stream.close()


def test_an_index_that_is_not_there_is_refused(driver: SimulatedDriver) -> None:
    with pytest.raises(BackendError, match="cannot find GPU 3"):
        find_device(BINDING, 3)
    with pytest.raises(ValueError, match="index must be 0 or more"):
        find_device(BINDING, -1)


@pytest.mark.skipif(BINDING != "pycuda", reason="is about PyCUDA's contexts")
def test_a_callers_context_is_used_and_left_alone(driver: SimulatedDriver) -> None:
    import pycuda.driver as cuda

    cuda.init()
    before = driver.live()  # the lost GPU above has given nothing back
    context = cuda.Device(0).make_context()
    try:
        device = find_device("auto")
        assert device.binding == "pycuda"
        content = np.arange(16, dtype=np.uint8)
        np.testing.assert_array_equal(_round_trip(device, content), content)
        assert cuda.Context.get_current() == context
        device.close()
        assert cuda.Context.get_current() == context
        assert driver.live() == {**before, "contexts": 1}
        with pytest.raises(BackendError, match="context on GPU 0, and GPU 1 was asked for"):
            find_device("pycuda", 1)
    finally:
        context.pop()
        context.detach()
    assert driver.live() == before
