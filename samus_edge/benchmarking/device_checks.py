"""What must hold of a GPU before anything on it is measured: memory, copies, streams, graphs.

Each check takes a device and gives what it measured, or raises a DeviceCheckError. PyTorch is the
other library wherever one is needed.
"""

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from samus_edge.errors import BackendError, SamusEdgeError
from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor
from samus_edge.runtime.backends.gpu.device_frame import device_frame
from samus_edge.runtime.backends.tensorrt.tensorrt_context import DeviceBufferPool

_MIB = 1 << 20
_COPY_BYTES = 64 * _MIB
_CYCLES = 200_000_000  # of a GPU's clock: about a tenth of a second


class DeviceCheckError(SamusEdgeError):
    """A GPU, or our use of it, does not do what it must."""


def _refuse(is_wrong: bool, what: str) -> None:
    if is_wrong:
        raise DeviceCheckError(f"{what}, which must not be.")


def _pattern(size: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def _round_trip(device: Device, content: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[bool, float]:
    """Host to device, within it, and back; whether it came back, and milliseconds of the copies."""
    with device.current():
        stream, start, end = device.create_stream(), device.create_event(), device.create_event()
        pinned = device.allocate_pinned(content.size)
        first, second = device.allocate(content.size), device.allocate(content.size)
        pinned.array[:] = content
        start.record(stream)
        device.copy_to_device(first.address, pinned.address, content.size, stream)
        end.record(stream)
        device.copy_on_device(second.address, first.address, content.size, stream)
        stream.synchronize()
        pinned.array[:] = 0
        device.copy_to_host(pinned.address, second.address, content.size, stream)
        stream.synchronize()
        milliseconds = end.milliseconds_since(start)
        same = bool(np.array_equal(pinned.array, content))
        for owned in (pinned, first, second, start, end, stream):
            owned.close()
    return same, milliseconds


def allocation(device: Device) -> dict[str, object]:
    """Memory that is given back is free again, and too much of it is an error with its size."""
    with device.current():
        device.allocate(_MIB).close()  # what the driver takes for itself at the first
        before = device.free_memory_bytes()
        for _ in range(100):
            device.allocate(16 * _MIB).close()
        lost = before - device.free_memory_bytes()
        too_much = 4 * device.info.total_memory_bytes
        try:
            device.allocate(too_much).close()
        except BackendError as err:
            _refuse(str(too_much) not in str(err), "an error of memory does not say how much")
        else:
            raise DeviceCheckError("four times the GPU's memory was given.")
    _refuse(lost > 4 * _MIB, f"100 allocations that were given back leave {lost} bytes taken")
    return {"free_bytes": before, "lost_bytes": lost}


def pinned_copies(device: Device) -> dict[str, object]:
    """Bytes come back as they went, and how fast they went."""
    same, milliseconds = _round_trip(device, _pattern(_COPY_BYTES))
    _refuse(not same, "bytes come back changed")
    return {"gbyte_per_s_to_device": _COPY_BYTES / 1e6 / max(milliseconds, 1e-6)}


def events(device: Device) -> dict[str, object]:
    """Events agree with the host's clock."""
    begun = time.perf_counter()
    _, milliseconds = _round_trip(device, _pattern(_COPY_BYTES))
    on_host = 1e3 * (time.perf_counter() - begun)
    _refuse(not 0 < milliseconds < on_host, f"{milliseconds} ms by events of {on_host} by the host")
    return {"milliseconds": milliseconds}


def threads(device: Device) -> dict[str, object]:
    """Threads use the device side by side."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(20):
            if not _round_trip(device, _pattern(_MIB, seed))[0]:
                wrong.append(seed)

    started = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    _refuse(bool(wrong), f"threads {wrong} got the bytes of others")
    return {"threads": len(started)}


def capture(device: Device) -> dict[str, object]:
    """Captured work is done at each launch; garbage does not end a capture, and a failed one is
    said and leaves the stream usable."""
    content = _pattern(_MIB)
    with device.current():
        stream, pinned = device.create_stream(), device.allocate_pinned(_MIB)
        buffers = [device.allocate(_MIB) for _ in range(2)]
        garbage: list[Any] = [device.allocate(_MIB)]
        garbage.append(garbage)

        def work() -> None:
            garbage.clear()
            gc.collect()
            device.copy_to_device(buffers[0].address, pinned.address, _MIB, stream)
            device.copy_on_device(buffers[1].address, buffers[0].address, _MIB, stream)

        graph = device.capture(stream, work)
        try:
            device.capture(stream, lambda: device.allocate(_MIB).close())
            was_ended = False
        except BackendError:
            was_ended = True
        for shift in (0, 1):
            pinned.array[:] = content + np.uint8(shift)
            graph.launch(stream)
            stream.synchronize()
            pinned.array[:] = 0
            device.copy_to_host(pinned.address, buffers[1].address, _MIB, stream)
            stream.synchronize()
            same = np.array_equal(pinned.array, content + np.uint8(shift))
            _refuse(not same, "a captured copy gives other bytes")
        for owned in (graph, *buffers, pinned, stream):
            owned.close()
    return {"allocation_ends_a_capture": was_ended}


def _torch_on_gpu(device: Device) -> Any:
    """PyTorch and its device; raises where it cannot be the other library."""
    try:
        import torch
    except ImportError as err:
        raise DeviceCheckError("PyTorch, the other library, is not installed.") from err
    if not torch.cuda.is_available():
        raise DeviceCheckError("PyTorch, the other library, has no GPU here.")
    return torch, torch.device("cuda", device.info.index)


def frames_of_torch(device: Device) -> dict[str, object]:
    """A frame that PyTorch is still writing, in its default stream or another, is waited for."""
    torch, place = _torch_on_gpu(device)
    expected = _pattern(480 * 640).reshape(480, 640)
    source = torch.from_numpy(expected).to(place)
    for stream in (torch.cuda.default_stream(place), torch.cuda.Stream(place)):
        frame = torch.zeros_like(source)
        torch.cuda.synchronize(place)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(_CYCLES)
            frame.copy_(source)
            taken = device_frame(frame, device).numpy()
        _refuse(not np.array_equal(taken, expected), "a frame of PyTorch is read too early")
    return {"streams": 2}


def tensors_for_torch(device: Device) -> dict[str, object]:
    """Memory that PyTorch still reads, in any of its streams, is not used again."""
    torch, place = _torch_on_gpu(device)
    content = _pattern(_MIB)
    with device.current():
        pool = DeviceBufferPool(device)
        stream, pinned = device.create_stream(), device.allocate_pinned(_MIB)
        for reader in (torch.cuda.default_stream(place), torch.cuda.Stream(place)):
            memory = pool.allocate(_MIB)
            pinned.array[:] = content
            device.copy_to_device(memory.address, pinned.address, _MIB, stream)
            stream.synchronize()
            tensor = DeviceTensor(device, memory, (_MIB,), np.uint8)
            with torch.cuda.stream(reader):
                view = torch.as_tensor(tensor, device=place)
                torch.cuda._sleep(_CYCLES)
                copy = view.clone()
            del view, tensor, memory
            pinned.array[:] = 0
            again = pool.allocate(_MIB)
            device.copy_to_device(again.address, pinned.address, _MIB, stream)
            stream.synchronize()
            torch.cuda.synchronize(place)
            same = np.array_equal(copy.cpu().numpy(), content)
            _refuse(not same, "PyTorch reads what was written after it had queued its read")
            del again
        pool.close()
    return {"streams": 2}


def _assert_on_device(device: Device) -> None:
    """An index out of range, which PyTorch's kernel stops at."""
    torch, place = _torch_on_gpu(device)
    with suppress(RuntimeError):  # PyTorch may notice first
        torch.zeros(4, device=place)[torch.tensor([9], device=place)].add(1)


def lost_device(
    device: Device, lose: Callable[[Device], None] = _assert_on_device
) -> dict[str, object]:
    """A lost GPU is an error that says so in every later call, and giving back is none.

    Args:
        device: To be lost to this process; give the check one of its own.
        lose: Does that.
    """
    said: list[str] = []
    with device.current():
        stream, buffer = device.create_stream(), device.allocate(_MIB)
        lose(device)
        for call in (device.synchronize, stream.synchronize, partial(device.allocate, _MIB)):
            try:
                call()
            except BackendError as err:
                said.append(str(err))
        buffer.close()
        stream.close()
    _refuse(not said or "lost to this process" not in said[-1], f"a lost GPU says {said}")
    return {"said": said[-1]}


CHECKS: dict[str, Callable[[Device], dict[str, object]]] = {
    check.__name__: check
    for check in (
        *(allocation, pinned_copies, events, threads, capture),
        *(frames_of_torch, tensors_for_torch, lost_device),
    )
}
"""By name; the last one leaves its process without a GPU."""
