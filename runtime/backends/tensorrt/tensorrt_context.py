"""One execution context of an engine with all that a run needs, used by one thread at a time."""

import logging
import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np

from samus_edge.errors import BackendError, BadArgumentError
from samus_edge.runtime.backends.backend import Feed, FloatTensor, Tensor
from samus_edge.runtime.backends.gpu.device import (
    CapturedGraph,
    Device,
    DeviceBuffer,
    DeviceMemory,
    DeviceTensor,
    PinnedBuffer,
)
from samus_edge.runtime.backends.tensorrt.tensorrt_engine import EngineTensor, TensorRTEngine

Shape = tuple[int, ...]

_logger = logging.getLogger(__name__)


class _PooledBuffer:
    """A buffer that goes back to its pool when it is freed or no longer referenced."""

    def __init__(self, pool: "DeviceBufferPool", buffer: DeviceBuffer) -> None:
        self._pool: DeviceBufferPool | None = pool
        self._buffer = buffer
        self._is_lent = False

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._buffer.address

    @property
    def size_bytes(self) -> int:
        """As asked for."""
        return self._buffer.size_bytes

    def lend(self) -> None:
        """Let the pool wait for its readers before it is used again."""
        self._is_lent = True

    def close(self) -> None:
        """Give it back to the pool; a second call does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool._take_back(self._buffer, self._is_lent)

    def __del__(self) -> None:
        self.close()


class DeviceBufferPool:
    """Keeps freed buffers by size: allocating memory of a GPU stops it, and costs more than a
    frame.

    Safe to use from several threads. `allocate` and `close` are called while the device is current.
    """

    def __init__(self, device: Device, max_kept: int = 4) -> None:
        """Make an empty pool.

        Args:
            device: The GPU whose memory it is.
            max_kept: Number of buffers of one size that are kept while nobody uses them.
        """
        self._device = device
        self._max_kept = max_kept
        # Reentrant: a collection of garbage may free a buffer while this thread holds the lock.
        self._lock = threading.RLock()
        self._idle: dict[int, list[DeviceBuffer]] = {}
        self._lent: dict[int, list[DeviceBuffer]] = {}  # another library may still read them
        self._is_closed = False

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """A buffer of this size, with whatever was in it before.

        Raises:
            BackendError: if there is not enough memory.
        """
        with self._lock:
            idle = self._idle.setdefault(size_bytes, [])
            if idle:
                return _PooledBuffer(self, idle.pop())
            lent = self._lent.pop(size_bytes, [])
        if lent:
            # Where that fails, they are freed instead, which waits as well.
            with suppress(BackendError):
                self._device.synchronize()
                with self._lock:
                    idle += lent[1:]
                return _PooledBuffer(self, lent[0])
        return _PooledBuffer(self, self._device.allocate(size_bytes))

    def close(self) -> None:
        """Free what is idle; what is still in use is freed when it comes back."""
        with self._lock:
            self._is_closed = True
            idle = [*self._idle.values(), *self._lent.values()]
            self._idle, self._lent = {}, {}
        for buffers in idle:
            for buffer in buffers:
                buffer.close()

    def _take_back(self, buffer: DeviceBuffer, is_lent: bool) -> None:
        with self._lock:
            kept = (self._lent if is_lent else self._idle).setdefault(buffer.size_bytes, [])
            if not self._is_closed and len(kept) < self._max_kept:
                kept.append(buffer)
                return
        buffer.close()


class TensorRTContext:
    """A context, its stream, and memory for its largest inputs and outputs.

    Every tensor keeps its address for life, so that work on one shape can be captured as a CUDA
    graph: the first run of a shape is queued step by step, the second captured, later ones launched
    whole. A change of shape drops the graph, since it belongs to the context's state.

    All methods are called while the device is current.

    Attributes:
        graph_loss: Why runs are queued step by step although graphs were asked for; "" if they are
            not.
    """

    def __init__(
        self, engine: TensorRTEngine, pool: DeviceBufferPool, *, use_cuda_graphs: bool = True
    ) -> None:
        """Reserve everything.

        Args:
            engine: The engine to run.
            pool: Buffers for outputs that stay on the device.
            use_cuda_graphs: Whether runs are captured.

        Raises:
            BackendError: if there is not enough memory.
        """
        self._engine = engine
        self._device = engine.device
        self._pool = pool
        self._captures = use_cuda_graphs
        self.graph_loss = ""
        self._graph: CapturedGraph | None = None
        self._runs_of_shape = 0
        self._input_shapes: dict[str, Shape] = {}
        self._output_shapes: dict[str, Shape] = {}
        self._profile = -1
        self._buffers: dict[str, DeviceBuffer] = {}
        self._pinned: dict[str, PinnedBuffer] = {}
        self._context: Any = None
        self._stream = self._device.create_stream()
        try:
            self._context = engine.create_context()
            self._reserve()
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor]:
        """Run once, and wait for it.

        Args:
            feeds: an array of the right dtype for each input, of this host or of this device.

        Returns:
            One array of the host for each output, owned by the caller.

        Raises:
            BadArgumentError: if a shape is outside the engine's profiles.
            BackendError: if TensorRT or CUDA fails; the context is then of no use any more.
        """
        self._queue(feeds)
        for name in self._outputs:
            pinned, buffer = self._pinned[name], self._buffers[name]
            self._device.copy_to_host(
                pinned.address, buffer.address, self._size_of(name), self._stream
            )
        self._stream.synchronize()
        return {name: self._host_array(name, self._shape_of(name)).copy() for name in self._outputs}

    def run_on_device(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor | DeviceTensor]:
        """As `run`, but the outputs stay on the device, in memory of their own."""
        self._queue(feeds)
        kept: dict[str, FloatTensor | DeviceTensor] = {
            name: self._keep(name) for name in self._outputs
        }
        self._stream.synchronize()
        return kept

    def device_milliseconds(self, runs: int) -> list[float]:
        """Time the engine alone, on what the last run was fed: no copies, no host in between.

        Args:
            runs: Number of runs, each timed by events of the GPU; all are queued before one wait.

        Returns:
            Milliseconds of each.
        """
        create = self._device.create_event
        marks = [(create(), create()) for _ in range(runs)]
        try:
            for start, end in marks:
                start.record(self._stream)
                self._enqueue()
                end.record(self._stream)
            self._stream.synchronize()
            return [end.milliseconds_since(start) for start, end in marks]
        finally:
            for mark in chain.from_iterable(marks):
                mark.close()

    def close(self) -> None:
        """Give everything back, at once; a second call does nothing."""
        self._drop_graph()
        self._context = None  # TensorRT frees its memory with the object
        for buffer in self._buffers.values():
            buffer.close()
        for pinned in self._pinned.values():
            pinned.close()
        self._buffers.clear()
        self._pinned.clear()
        self._stream.close()

    def _reserve(self) -> None:
        """Memory for every tensor at the largest shapes of any profile."""
        capacity = {tensor.name: 1 for tensor in self._engine.tensors}
        for profile in range(self._engine.profiles):
            largest = {tensor.name: tensor.profiles[profile].largest for tensor in self._inputs}
            self._apply_shapes(profile, largest)
            for tensor in self._engine.tensors:
                size = tensor.nbytes(self._shape_of(tensor.name))
                capacity[tensor.name] = max(capacity[tensor.name], size)
        for name, size in capacity.items():
            self._buffers[name] = self._device.allocate(size)
            self._pinned[name] = self._device.allocate_pinned(size)
            if not self._context.set_tensor_address(name, self._buffers[name].address):
                raise self._failure(f"takes no memory for {name}")
        # Padding of a buffer that no run has written must not be read as a number.
        self._stream.synchronize()

    @property
    def _inputs(self) -> list[EngineTensor]:
        return [tensor for tensor in self._engine.tensors if tensor.is_input]

    @property
    def _outputs(self) -> list[str]:
        return [tensor.name for tensor in self._engine.tensors if not tensor.is_input]

    def _set_shapes(self, shapes: dict[str, Shape]) -> None:
        if shapes == self._input_shapes:
            return
        self._drop_graph()
        self._apply_shapes(self._fitting_profile(shapes), shapes)

    def _fitting_profile(self, shapes: Mapping[str, Shape]) -> int:
        """The narrowest profile that takes the shapes."""
        fitting: list[tuple[int, int]] = []
        for profile in range(self._engine.profiles):
            if all(
                tensor.profiles[profile].contains(shapes[tensor.name]) for tensor in self._inputs
            ):
                size = sum(math.prod(tensor.profiles[profile].largest) for tensor in self._inputs)
                fitting.append((size, profile))
        if fitting:
            return min(fitting)[1]
        problems = [
            f"{tensor.name} is {shapes[tensor.name]}, and the engine takes "
            + " or ".join(f"{low.smallest} to {low.largest}" for low in tensor.profiles)
            for tensor in self._inputs
            if not any(sizes.contains(shapes[tensor.name]) for sizes in tensor.profiles)
        ]
        raise BadArgumentError(
            f"graph {self._engine.name!r}: "
            f"{'; '.join(problems) or 'no profile takes these shapes together'}. "
            "Build an engine for such sizes with samus-edge build, or use the backend onnxruntime."
        )

    def _apply_shapes(self, profile: int, shapes: Mapping[str, Shape]) -> None:
        """Tell the context; `_input_shapes` stays empty where that fails half-way."""
        self._input_shapes = {}
        self._runs_of_shape = 0
        context = self._context
        if profile != self._profile:
            if not context.set_optimization_profile_async(profile, self._stream.handle):
                raise self._failure(f"refuses profile {profile}")
            self._stream.synchronize()
            self._profile = profile
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._failure(f"refuses {name} of shape {shape}")
        try:
            missing = context.infer_shapes()
        except RuntimeError as err:  # of the bindings: a shape that the engine itself computes
            raise self._failure(f"cannot infer the shapes for {shapes} ({err})") from err
        if missing:
            raise self._failure(f"does not know the shape of {', '.join(missing)}")
        self._output_shapes = {
            name: tuple(context.get_tensor_shape(name)) for name in self._outputs
        }
        self._input_shapes = dict(shapes)

    def _queue(self, feeds: Mapping[str, Feed]) -> None:
        """Copies to the engine's inputs, and the engine."""
        self._set_shapes({name: tuple(feed.shape) for name, feed in feeds.items()})
        for name, feed in feeds.items():
            self._copy_in(name, feed)
        self._enqueue()

    def _copy_in(self, name: str, feed: Feed) -> None:
        buffer, size = self._buffers[name], self._size_of(name)
        if isinstance(feed, DeviceTensor):
            self._device.copy_on_device(buffer.address, feed.address, size, self._stream)
            return
        np.copyto(self._host_array(name, feed.shape), np.asarray(feed))
        self._device.copy_to_device(buffer.address, self._pinned[name].address, size, self._stream)

    def _enqueue(self) -> None:
        if self._graph is None and self._captures and self._runs_of_shape > 0:
            self._capture()
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._execute()
        self._runs_of_shape += 1

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise self._failure("fails")

    def _capture(self) -> None:
        capturable = getattr(
            self._context, "is_stream_capturable", None
        )  # TensorRT-RTX alone has it
        try:
            if capturable is not None and not capturable(self._stream.handle):
                raise BackendError("TensorRT says that it cannot be captured")
            self._graph = self._device.capture(self._stream, self._execute)
        except BackendError as err:
            self._captures = False  # it would fail again, every time
            self.graph_loss = str(err)
            _logger.warning(
                "graph %r runs without a CUDA graph, which is slower: %s", self._engine.name, err
            )

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.close()

    def _keep(self, name: str) -> DeviceTensor:
        tensor = self._tensor(name)
        size = self._size_of(name)
        kept = self._pool.allocate(size)
        self._device.copy_on_device(kept.address, self._buffers[name].address, size, self._stream)
        return DeviceTensor(self._device, kept, self._shape_of(name), tensor.dtype)

    def _host_array(self, name: str, shape: Shape) -> Tensor:
        """The pinned memory of a tensor as an array."""
        tensor = self._tensor(name)
        content = self._pinned[name].array[: tensor.nbytes(shape)]
        return content.view(tensor.dtype).reshape(shape)

    def _tensor(self, name: str) -> EngineTensor:
        return next(tensor for tensor in self._engine.tensors if tensor.name == name)

    def _shape_of(self, name: str) -> Shape:
        return self._input_shapes[name] if name in self._input_shapes else self._output_shapes[name]

    def _size_of(self, name: str) -> int:
        return self._tensor(name).nbytes(self._shape_of(name))

    def _failure(self, what: str) -> BackendError:
        engine = self._engine
        return BackendError(
            f"{engine.library} {what} in graph {engine.name!r} on {self._device.info.name}: "
            f"{engine.last_errors()}. Load the model again; if it happens again, build the engines "
            "anew with samus-edge build --rebuild, or use the backend onnxruntime."
        )
