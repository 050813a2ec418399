"""Inference on TensorRT: one engine for each graph, on one GPU."""

import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from samus_edge.errors import BackendError, BundleError, OutputFileError
from samus_edge.runtime.backends.backend import GraphSession, Predictor
from samus_edge.runtime.backends.gpu.device import Device, GpuInfo
from samus_edge.runtime.backends.gpu.find_device import find_device
from samus_edge.runtime.backends.tensorrt.engine_build import (
    BuildProgress,
    EngineOptions,
    ShapeRange,
    build_engine,
)
from samus_edge.runtime.backends.tensorrt.engine_cache import (
    CachedEngine,
    EngineCache,
    EngineKey,
    image_sizes,
    process_lock,
    profiles_to_json,
)
from samus_edge.runtime.backends.tensorrt.engine_check import EngineCheck, compare_predictors
from samus_edge.runtime.backends.tensorrt.tensorrt_engine import TensorRTEngine
from samus_edge.runtime.backends.tensorrt.tensorrt_library import (
    TensorRTLibrary,
    find_tensorrt,
    installed_flavour,
    refuse_known_problem,
)
from samus_edge.runtime.backends.tensorrt.tensorrt_session import EngineChoice, TensorRTSession
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MASK_DECODER, GraphRecord

_LOCK_TIMEOUT_SECONDS = 3600.0  # a first build on a small Jetson takes many minutes

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineTarget:
    """What engines are to run on.

    Attributes:
        library: The library that builds and runs them.
        compute_capability: That of the GPU, for example "8.6".
        gpu_name: Name and size of the GPU, as Orin Nano and AGX Orin have one name; None for any
            GPU of the compute capability.
    """

    library: TensorRTLibrary
    compute_capability: str
    gpu_name: str | None

    @staticmethod
    def of(library: TensorRTLibrary, gpu: GpuInfo) -> "EngineTarget":
        """The GPU of this machine."""
        gib = round(gpu.total_memory_bytes / 2**30)
        name = f"{gpu.name} ({gpu.multiprocessors} multiprocessors, {gib} GiB)"
        return EngineTarget(library, gpu.compute_capability, name)


@dataclass(frozen=True)
class ProvidedEngine:
    """An engine, ready to load.

    Attributes:
        engine: Content of the engine.
        entry: Its place in the cache; None if it could not be kept.
        was_built: Whether it was built just now.
    """

    engine: bytes
    entry: CachedEngine | None
    was_built: bool


def engine_key(target: EngineTarget, record: GraphRecord, options: EngineOptions) -> EngineKey:
    """The identity of the engine of a graph."""
    return EngineKey(
        flavour=target.library.flavour,
        version=target.library.version,
        gpu_name=target.gpu_name,
        compute_capability=target.compute_capability,
        graph_sha256=record.sha256,
        profiles=profiles_to_json(options.profiles(record)),
        tf32=options.tf32,
        workspace_bytes=options.workspace_bytes,
    )


def provide_engine(
    name: str,
    graph: bytes,
    record: GraphRecord,
    *,
    target: EngineTarget,
    options: EngineOptions,
    cache: EngineCache,
    rebuild: bool = False,
    on_progress: Callable[[BuildProgress], None] | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> ProvidedEngine:
    """Take an engine from the cache, or build and keep it.

    Of several processes that ask for the same engine one builds, and the others wait for it.

    Args:
        name: Name of the graph, for messages.
        graph: Content of the ONNX file.
        record: Its record in the manifest.
        target: The library and GPU that it is to run on.
        options: How to build it.
        cache: The cache to look in and to keep it in.
        rebuild: Whether to build it even if the cache has it.
        on_progress: see `build_engine`.
        on_wait: called once if another process is building it.

    Raises:
        BackendError: if it cannot be built.
        BundleError: if the graph keeps tensors in other files.
    """
    if record.external_data:
        raise BundleError(
            f"graph {name!r} keeps tensors in other files, which an engine cannot be built from. "
            "Export the bundle again with samus-edge export, which writes one file for each graph."
        )
    key = engine_key(target, record, options)
    started = time.time()
    with process_lock(cache.lock_file(key), timeout_seconds=_LOCK_TIMEOUT_SECONDS, on_wait=on_wait):
        entry = cache.get(key)
        # What another process has built while this one waited is new enough.
        if entry is not None and not (rebuild and entry.built < started):
            try:
                return ProvidedEngine(entry.read(), entry, was_built=False)
            except BackendError as err:
                _logger.warning("%s It is built anew.", err)
        begun = time.perf_counter()
        engine = build_engine(
            graph,
            library=target.library,
            name=name,
            profiles=options.profiles(record),
            compute_capability=_named_capability(target),
            workspace_bytes=options.workspace_bytes,
            timing_cache=cache.timing_file(key) if target.library.flavour == "tensorrt" else None,
            tf32=options.tf32,
            on_progress=on_progress,
        )
        seconds = time.perf_counter() - begun
        try:
            entry = cache.store(key, engine, graph=name, build_seconds=seconds)
        except OutputFileError as err:
            _logger.warning("the engine of graph %r is used, but not kept: %s", name, err)
            entry = None
    return ProvidedEngine(engine, entry, was_built=True)


def _named_capability(target: EngineTarget) -> str | None:
    """`tensorrt` builds for the GPU that is there, and takes no name of it."""
    return None if target.library.flavour == "tensorrt" else target.compute_capability


@dataclass(frozen=True)
class TensorRTOptions:
    """How TensorRT is used; the defaults are right for most.

    Attributes:
        flavour: "auto", "tensorrt" or "tensorrt_rtx".
        binding: Binding of CUDA: "auto", "cuda-python" or "pycuda".
        device_index: Index of the GPU; None for that of the thread's PyCUDA context, or the first.
        cache: Folder of the engines; None for the default one.
        build_missing: Whether to build what the cache lacks; else that is an error.
        engine: How engines are built; one of other options is not used. None takes whatever the
            cache has of a graph, each frame on the narrowest engine that takes it, and builds with
            the defaults where it has none.
        max_contexts: Most threads that run one graph at the same time; each takes its own memory.
        use_cuda_graphs: Whether a frame is launched as a whole; only cuda-python can do that.
        force: Whether to use a version of TensorRT that is known to give wrong results.
    """

    flavour: str = "auto"
    binding: str = "auto"
    device_index: int | None = None
    cache: Path | None = None
    build_missing: bool = True
    engine: EngineOptions | None = None
    max_contexts: int = 2
    use_cuda_graphs: bool = True
    force: bool = False


class TensorRTBackend:
    """TensorRT or TensorRT-RTX on a GPU of this machine."""

    def __init__(
        self,
        options: TensorRTOptions | None = None,
        *,
        library: TensorRTLibrary | None = None,
        device: Device | None = None,
    ) -> None:
        """Find the library and the GPU.

        Args:
            options: None for the defaults.
            library: A library to use instead of the one in the options.
            device: A GPU to use instead of the one in the options.

        Raises:
            BackendError: if there is no library, driver or GPU, or the version is known to be
                wrong.
        """
        self._options = TensorRTOptions() if options is None else options
        if library is None:
            installed_flavour(
                self._options.flavour
            )  # loading it takes long, to find no GPU after all
        if device is None:
            device = find_device(self._options.binding, self._options.device_index)
        self._library = find_tensorrt(self._options.flavour) if library is None else library
        self._device = device
        self._cache = EngineCache(self._options.cache)
        self._target = EngineTarget.of(self._library, device.info)
        self._entries: dict[str, list[CachedEngine]] = {}
        self._frames: dict[str, ShapeRange] = {}
        self._sessions: weakref.WeakSet[TensorRTSession] = weakref.WeakSet()
        self._choices: weakref.WeakValueDictionary[str, EngineChoice] = (
            weakref.WeakValueDictionary()
        )

    @property
    def name(self) -> str:
        """ "tensorrt"."""
        return "tensorrt"

    @property
    def device(self) -> str:
        """Name of the GPU."""
        return self._device.info.name

    @property
    def version(self) -> str:
        """Flavour and version of the library; and where CUDA graphs were lost, that they were."""
        lost = any(session.graph_losses for session in self._sessions)
        return f"{self._library}{', without CUDA graphs' if lost else ''}"

    @property
    def threads(self) -> int:
        """1: the CPU only queues work."""
        return 1

    @property
    def gpu(self) -> Device:
        """The GPU."""
        return self._device

    @property
    def cache(self) -> EngineCache:
        """Where its engines are kept."""
        return self._cache

    def entry(self, graph_sha256: str) -> CachedEngine | None:
        """Where the cache has the engine that an opened graph runs on, the newest if there are
        several; None if it could not be kept."""
        return next(iter(self._entries.get(graph_sha256, ())), None)

    def frame_sizes(self, graph_sha256: str) -> ShapeRange | None:
        """The frames (H, W) that the engine of an opened image encoder takes, the newest if there
        are several."""
        return self._frames.get(graph_sha256)

    def open_graph(
        self,
        name: str,
        graph: bytes,
        record: GraphRecord,
        external_data: Mapping[str, bytes] | None = None,
    ) -> GraphSession:
        """Load the engine of a graph, built first where the cache has none; see
        `Backend.open_graph`."""
        gpu = self._device.info
        refuse_known_problem(
            self._library.flavour,
            self._library.version,
            gpu.compute_capability,
            record.precision,
            force=self._options.force,
        )
        engine = self._engine_of(name, graph, record)
        entries = self._entries.get(record.sha256, [])
        session = self._open_session(name, engine, record, entries[0] if entries else None)
        sizes = [image_sizes(entry.key.profiles) for entry in entries]
        known = [each for each in sizes if each is not None]
        if len(known) < 2:
            return session

        def open_other(index: int) -> TensorRTSession:
            if index == 0:
                return session
            entry = entries[index]
            return self._open_session(name, entry.read(), record, entry)

        self._choices[record.sha256] = choice = EngineChoice(known, open_other)
        return choice

    def _open_session(
        self, name: str, engine: bytes, record: GraphRecord, entry: CachedEngine | None
    ) -> TensorRTSession:
        with self._device.current():
            loaded = TensorRTEngine(
                name,
                engine,
                library=self._library,
                device=self._device,
                runtime_cache=None if entry is None else entry.path.with_suffix(".runtime"),
            )
        for tensor in loaded.tensors:
            if tensor.name == "image":
                (sizes, *_) = tensor.profiles  # (B, H, W)
                self._frames.setdefault(record.sha256, _without_batch(sizes))
        session = TensorRTSession(
            loaded,
            record,
            max_contexts=self._options.max_contexts,
            use_cuda_graphs=self._options.use_cuda_graphs,
        )
        self._sessions.add(session)
        if loaded.must_compile and any(spec.name == "point_coords" for spec in record.inputs):
            _logger.warning("compiling graph %r for %s, once", name, self._device.info.name)
            session.warm_up()
        return session

    def check(self, tested: Predictor, open_reference: Callable[[], Predictor]) -> None:
        """Compare engines with ONNX Runtime, or recall that this was done; see `Backend.check`.

        The result is kept beside the engines, for these engines on this driver.
        """
        found = self.engine_check(tested, open_reference)
        if found.problems:
            raise BackendError(
                f"the engines of {self.version} on {self.device} do not compute what their graphs "
                f"compute on ONNX Runtime ({found.masks} masks on {found.frames} frames): "
                f"{'; '.join(found.problems)}. They are not used. Install another version of "
                "TensorRT, build again, or use the backend onnxruntime."
            )

    def engine_check(
        self, tested: Predictor, open_reference: Callable[[], Predictor]
    ) -> EngineCheck:
        """The figures of the check, kept or measured now; those of the worst engine if a frame may
        go to several."""
        encoder = tested.graph_hashes[IMAGE_ENCODER]
        choice = self._choices.get(encoder)
        if choice is None:
            sizes = self.frame_sizes(encoder)
            return self._engine_check(tested, open_reference, self.entry(encoder), sizes)
        found: list[EngineCheck] = []
        for index, sizes in enumerate(choice.sizes):
            entry = self._entries[encoder][index]
            with choice.only(index):
                frames = _without_batch(sizes)
                found.append(self._engine_check(tested, open_reference, entry, frames))
        return max(found, key=lambda check: (len(check.problems), -check.worst_mask_iou))

    def _engine_check(
        self,
        tested: Predictor,
        open_reference: Callable[[], Predictor],
        encoder: CachedEngine | None,
        sizes: ShapeRange | None,
    ) -> EngineCheck:
        decoder = self.entry(tested.graph_hashes[MASK_DECODER])
        driver = self.gpu.info.driver_version
        kept = None
        if encoder is not None and decoder is not None:
            kept = self.cache.check_of(encoder, decoder, driver)
        if kept is not None:
            return kept
        frames = load_check_frames(_frame_hw(sizes))
        with contextlib.closing(open_reference()) as reference:
            found = compare_predictors(tested, reference, frames)
        _logger.info("engines on %s: %s", self.device, found)
        if encoder is not None and decoder is not None:
            self.cache.record_check(encoder, decoder, driver, found)
        return found

    def _engine_of(self, name: str, graph: bytes, record: GraphRecord) -> bytes:
        """Its content; `_entries` then has all engines that may be used."""
        any_options = self._options.engine is None
        options = self._options.engine or EngineOptions()
        wanted = engine_key(self._target, record, options)
        found = self._cache.find(wanted, any_options=any_options)
        while found:
            try:
                engine = found[0].read()
            except BackendError as err:
                _logger.warning("%s", err)
                del found[0]
            else:
                self._entries[record.sha256] = found
                return engine
        others = self._cache.why_none(wanted, any_options=any_options)
        if not self._options.build_missing:
            why = f" Those of this graph do not fit: {'; '.join(others)}." if others else ""
            raise BackendError(
                f"there is no engine of graph {name!r} for {self._device.info.name} in "
                f"{self._cache.folder}.{why} Build it: samus-edge build"
            )
        for line in others:
            _logger.info("not used: %s", line)
        _logger.warning(
            "building the engine of graph %r for %s, once; it may take minutes. Ahead of time: "
            "samus-edge build",
            name,
            self._device.info.name,
        )
        provided = provide_engine(
            name,
            graph,
            record,
            target=self._target,
            options=options,
            cache=self._cache,
        )
        if provided.entry is not None:
            self._entries[record.sha256] = [provided.entry]
        return provided.engine


def _without_batch(sizes: ShapeRange) -> ShapeRange:
    """(B, H, W) to (H, W)."""
    return ShapeRange(sizes.smallest[1:], sizes.typical[1:], sizes.largest[1:])


def _frame_hw(sizes: ShapeRange | None) -> tuple[int, int] | None:
    """What the frames are resized to; None if the engine takes them as they are."""
    if sizes is None or all(sizes.contains(frame.image.shape) for frame in load_check_frames()):
        return None
    height, width = sizes.typical
    return height, width
