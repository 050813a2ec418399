"""Engines from the cache, built where they are missing."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from samus_edge.errors import BackendError, OutputFileError
from samus_edge.runtime.gpu.device import GpuInfo
from samus_edge.runtime.graph_record import GraphRecord
from samus_edge.runtime.tensorrt.engine_build import build_engine
from samus_edge.runtime.tensorrt.engine_cache import CachedEngine, EngineCache
from samus_edge.runtime.tensorrt.engine_key import EngineKey, profiles_to_json
from samus_edge.runtime.tensorrt.engine_options import EngineOptions
from samus_edge.runtime.tensorrt.engine_progress import BuildProgress
from samus_edge.runtime.tensorrt.process_lock import process_lock
from samus_edge.runtime.tensorrt.tensorrt_library import TensorRTLibrary

__all__ = ["EngineTarget", "ProvidedEngine", "engine_key", "provide_engine"]

_LOCK_TIMEOUT_SECONDS = 3600.0  # a first build on a small Jetson takes many minutes

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineTarget:
    """What engines are to run on.

    Attributes:
        library: that builds and runs them.
        compute_capability: of the GPU, for example "8.6".
        gpu_name: of the GPU; None for any of the compute capability.
    """

    library: TensorRTLibrary
    compute_capability: str
    gpu_name: str | None

    @staticmethod
    def of(library: TensorRTLibrary, gpu: GpuInfo) -> "EngineTarget":
        """The GPU of this machine."""
        return EngineTarget(library, gpu.compute_capability, gpu.name)


@dataclass(frozen=True)
class ProvidedEngine:
    """An engine, ready to load.

    Attributes:
        engine: its bytes.
        entry: where the cache has it; None if it could not be kept.
        was_built: just now.
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
        name: of the graph, for messages.
        graph: the ONNX file's bytes.
        record: what the manifest says about it.
        target: what it is to run on.
        options: sizes and the like.
        cache: where it is looked for and kept.
        rebuild: build it even if the cache has it.
        on_progress: see `build_engine`.
        on_wait: called once if another process is building it.

    Raises:
        BackendError: if it cannot be built.
    """
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
