"""One graph on TensorRT: an engine, and as many contexts as threads run it at once."""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from samus_edge.errors import BackendError
from samus_edge.runtime.backends.backend import Feed, FloatTensor, check_feeds
from samus_edge.runtime.backends.gpu.device import DeviceTensor, outside_capture
from samus_edge.runtime.backends.tensorrt.engine_build import ShapeRange
from samus_edge.runtime.backends.tensorrt.tensorrt_context import DeviceBufferPool, TensorRTContext
from samus_edge.runtime.backends.tensorrt.tensorrt_engine import TensorRTEngine
from samus_edge.runtime.bundle.manifest import GraphRecord

_logger = logging.getLogger(__name__)


class TensorRTSession:
    """One graph, ready to run from several threads at once.

    A run takes an idle context, makes one if there is none and fewer than `max_contexts`, or
    waits.
    """

    def __init__(
        self,
        engine: TensorRTEngine,
        record: GraphRecord,
        *,
        max_contexts: int = 2,
        use_cuda_graphs: bool = True,
    ) -> None:
        """Make the first context.

        Args:
            engine: The graph's engine; closed with the session.
            record: The graph's record in the manifest.
            max_contexts: Most runs at the same time; each has its own memory.
            use_cuda_graphs: see `TensorRTContext`.

        Raises:
            BackendError: if the GPU has too little memory.
        """
        self._engine = engine
        self._device = engine.device
        self._inputs = record.inputs
        self._max_contexts = max_contexts
        self._use_cuda_graphs = use_cuda_graphs
        self._pool = DeviceBufferPool(self._device)
        self._changed = threading.Condition()
        self._idle: list[TensorRTContext] = []
        self._made = 0
        self._is_closed = False
        self._graph_losses: set[str] = set()
        with self._context():
            pass

    @property
    def graph_losses(self) -> frozenset[str]:
        """Why contexts run step by step although CUDA graphs were asked for; see
        `TensorRTContext`."""
        return frozenset(self._graph_losses)

    def largest(self, name: str, axis: int) -> int | None:
        """The largest size of an input's axis."""
        tensor = next(tensor for tensor in self._engine.tensors if tensor.name == name)
        return max(sizes.largest[axis] for sizes in tensor.profiles)

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor]:
        """Run the graph; see `GraphSession.run`."""
        check_feeds(self._engine.name, self._inputs, feeds)
        count, feeds = self._in_bucket(feeds)
        with self._context() as context:
            return {name: value[:count] for name, value in context.run(feeds).items()}

    def run_on_device(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor | DeviceTensor]:
        """Run the graph; see `GraphSession.run_on_device`."""
        check_feeds(self._engine.name, self._inputs, feeds)
        with self._context() as context:
            return context.run_on_device(feeds)

    def device_milliseconds(self, feeds: Mapping[str, Feed], runs: int) -> list[float]:
        """Time the engine alone on some feeds, without copies; see `TensorRTContext`.

        Args:
            feeds: as for `run`, which is called three times first.
            runs: Number of timed runs.
        """
        check_feeds(self._engine.name, self._inputs, feeds)
        with self._context() as context:
            for _ in range(3):  # lazy initialisation, capture, launch
                context.run_on_device(feeds)
            return context.device_milliseconds(runs)

    def warm_up(self) -> None:
        """Let an engine that compiles on the GPU do so for the prompts of everyday, and keep that.

        One prompt of every number of points, and every number of boxes that a run may have.
        """
        points = self.largest("point_coords", 1) or 2
        prompts = self.largest("point_coords", 0) or 1
        boxes = [min(1 << power, prompts) for power in range((prompts - 1).bit_length() + 1)]
        for sizes in [(1, count) for count in range(2, points + 1)] + [(n, 2) for n in boxes]:
            feeds = {}
            for spec in self._inputs:
                open_or_fixed = zip(spec.shape, (*sizes, 1, 1), strict=False)
                shape = [size if isinstance(size, int) else now for size, now in open_or_fixed]
                feeds[spec.name] = np.zeros(shape, spec.dtype)
            self.run(feeds)
        with self._device.current():
            self._engine.keep_runtime_cache()

    def close(self) -> None:
        """Give everything back; runs under way end first. A second call does nothing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            while self._made > len(self._idle):
                self._changed.wait()
            idle, self._idle, self._made = self._idle, [], 0
        with self._device.current():
            with suppress(BackendError, RuntimeError):  # of a lost GPU
                self._engine.keep_runtime_cache()
            for context in idle:
                context.close()
            self._pool.close()
            self._engine.close()

    def __del__(self) -> None:
        # Not by name, as of a segmenter that nobody closed. `_engine` is the last that fails to be
        # made.
        if not getattr(self, "_is_closed", True):
            outside_capture(self._close_quietly)

    def _close_quietly(self) -> None:
        with suppress(BackendError, RuntimeError):
            self.close()

    def _in_bucket(self, feeds: Mapping[str, Feed]) -> tuple[int | None, Mapping[str, Feed]]:
        """The number of rows to keep, and the feeds filled up with rows that are thrown away.

        Rows are computed independently of one another, so a few numbers of them are enough, and
        another number of prompts compiles nothing.
        """
        names = [spec.name for spec in self._inputs if isinstance(spec.shape[0], str)]
        rows = {name: feed for name in names if isinstance(feed := feeds[name], np.ndarray)}
        if not self._engine.compiles or not rows or len(rows) < len(names):
            return None, feeds
        count = len(rows[names[0]])
        missing = min(1 << (count - 1).bit_length(), self.largest(names[0], 0) or count) - count
        if missing <= 0:
            return None, feeds
        filled = {
            name: np.concatenate([feed, np.repeat(feed[-1:], missing, 0)])
            for name, feed in rows.items()
        }
        return count, {**feeds, **filled}

    @contextmanager
    def _context(self) -> Iterator[TensorRTContext]:
        """A context for one run, with the device current."""
        context = self._take()
        usable = False
        try:
            with self._device.current():
                if context is None:
                    context = TensorRTContext(
                        self._engine, self._pool, use_cuda_graphs=self._use_cuda_graphs
                    )
                try:
                    yield context
                    usable = True
                except ValueError:  # a shape that does not fit: nothing was queued
                    usable = True
                    raise
                finally:
                    if not usable:
                        # The GPU may be gone, and then nothing can be given back either.
                        with suppress(BackendError):
                            context.close()
        finally:
            self._give_back(context if usable else None)

    def _take(self) -> TensorRTContext | None:
        """An idle context, or None where a new one is to be made."""
        with self._changed:
            while True:
                if self._is_closed:
                    raise RuntimeError(
                        f"graph {self._engine.name!r} is closed. Load another with "
                        "Segmenter.load()."
                    )
                if self._idle:
                    return self._idle.pop()
                if self._made < self._max_contexts:
                    self._made += 1
                    return None
                self._changed.wait()

    def _give_back(self, context: TensorRTContext | None) -> None:
        with self._changed:
            if context is None:
                self._made -= 1
            else:
                self._idle.append(context)
                if context.graph_loss:
                    self._graph_losses.add(context.graph_loss)
            self._changed.notify_all()


class EngineChoice:
    """One image encoder on several engines: every frame goes to the narrowest that takes it.

    An engine is loaded when the first frame needs it.
    """

    def __init__(
        self, sizes: Sequence[ShapeRange], open_session: Callable[[int], TensorRTSession]
    ) -> None:
        """Load the first engine.

        Args:
            sizes: For each engine, the shapes (B, H, W) of images that it takes.
            open_session: Loads the engine of that index.

        Raises:
            BackendError: if it cannot be loaded.
        """
        self.sizes = tuple(sizes)
        self._open_session = open_session
        self._lock = threading.Lock()
        self._only: int | None = None
        self._is_closed = False
        self._sessions = {0: open_session(0)}

    @property
    def graph_losses(self) -> frozenset[str]:
        """See `TensorRTSession`."""
        return frozenset().union(*(each.graph_losses for each in self._sessions.values()))

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        """Let one engine take every frame, to check it."""
        self._only = index
        try:
            yield
        finally:
            self._only = None

    def largest(self, name: str, axis: int) -> int | None:
        """The largest size of the image's axis."""
        return max(sizes.largest[axis] for sizes in self.sizes)

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor]:
        """Run the graph; see `GraphSession.run`."""
        return self._session(feeds).run(feeds)

    def run_on_device(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor | DeviceTensor]:
        """Run the graph; see `GraphSession.run_on_device`."""
        return self._session(feeds).run_on_device(feeds)

    def close(self) -> None:
        """Close every engine that was loaded."""
        with self._lock:
            self._is_closed = True
        for session in self._sessions.values():
            session.close()

    def _session(self, feeds: Mapping[str, Feed]) -> TensorRTSession:
        shape = tuple(feeds["image"].shape) if "image" in feeds else ()
        fitting = [
            (math.prod(sizes.largest), index)
            for index, sizes in enumerate(self.sizes)
            if sizes.contains(shape)
        ]
        index = min(fitting)[1] if fitting else 0  # which says what it takes
        with self._lock:
            index = index if self._only is None else self._only
            if index not in self._sessions and not self._is_closed:
                self._sessions[index] = self._open_session(index)
            return self._sessions.get(index, self._sessions[0])
