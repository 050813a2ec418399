"""Inference on TensorRT: one engine for each graph, on one GPU."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samus_edge.errors import BackendError
from samus_edge.runtime.backend import GraphSession
from samus_edge.runtime.gpu.device import Device
from samus_edge.runtime.gpu.find_device import find_device
from samus_edge.runtime.graph_record import GraphRecord
from samus_edge.runtime.tensorrt.engine_cache import CachedEngine, EngineCache
from samus_edge.runtime.tensorrt.engine_options import EngineOptions, FrameSizes
from samus_edge.runtime.tensorrt.engine_profiles import ShapeRange
from samus_edge.runtime.tensorrt.engine_provider import EngineTarget, engine_key, provide_engine
from samus_edge.runtime.tensorrt.tensorrt_engine import TensorRTEngine
from samus_edge.runtime.tensorrt.tensorrt_library import (
    TensorRTLibrary,
    find_tensorrt,
    installed_flavour,
)
from samus_edge.runtime.tensorrt.tensorrt_session import TensorRTSession
from samus_edge.runtime.tensorrt.tensorrt_versions import refuse_known_problem

__all__ = ["TensorRTBackend", "TensorRTOptions"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRTOptions:
    """How TensorRT is used; the defaults are right for most.

    Attributes:
        flavour: "auto", "tensorrt" or "tensorrt_rtx".
        binding: of CUDA: "auto", "cuda-python" or "pycuda".
        device_index: of the GPU; None for that of the thread's PyCUDA context, or the first.
        cache: folder of the engines; None for the default one.
        build_missing: build what is not in the cache; else that is an error.
        engine: what missing engines are built for.
        most_contexts: threads that run one graph at the same time; each takes memory of its own.
        use_cuda_graphs: launch a frame as a whole where the binding can; cuda-python can.
        force: use a version of TensorRT that is known to give wrong results.
    """

    flavour: str = "auto"
    binding: str = "auto"
    device_index: int | None = None
    cache: Path | None = None
    build_missing: bool = True
    engine: EngineOptions = field(default_factory=EngineOptions)
    most_contexts: int = 2
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
            library: instead of the one that the options name.
            device: instead of the one that the options name.

        Raises:
            BackendError: if there is no library, driver or GPU, or the version is known to be wrong.
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
        self._entries: dict[str, CachedEngine] = {}
        self._frames: dict[str, FrameSizes] = {}

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
        """Flavour and version of the library."""
        return str(self._library)

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
        """Where the cache has the engine that an opened graph runs on; None if it could not be kept."""
        return self._entries.get(graph_sha256)

    def frame_sizes(self, graph_sha256: str) -> FrameSizes | None:
        """The frames that the engine of an opened image encoder takes."""
        return self._frames.get(graph_sha256)

    def open_graph(
        self,
        name: str,
        graph: bytes,
        record: GraphRecord,
        external_data: Mapping[str, bytes] | None = None,
    ) -> GraphSession:
        """Load the engine of a graph, built first where the cache has none; see `Backend.open_graph`."""
        gpu = self._device.info
        refuse_known_problem(
            self._library.flavour,
            self._library.version,
            gpu.compute_capability,
            record.precision,
            force=self._options.force,
        )
        engine = self._engine_of(name, graph, record)
        with self._device.current():
            loaded = TensorRTEngine(name, engine, library=self._library, device=self._device)
        for tensor in loaded.tensors:
            if tensor.name == "image":
                self._frames[record.sha256] = _frame_sizes(tensor.profiles[0])
        return TensorRTSession(
            loaded,
            record,
            most_contexts=self._options.most_contexts,
            use_cuda_graphs=self._options.use_cuda_graphs,
        )

    def _engine_of(self, name: str, graph: bytes, record: GraphRecord) -> bytes:
        wanted = engine_key(self._target, record, self._options.engine)
        found = self._cache.find(wanted)
        if found is not None:
            try:
                engine = found.read()
            except BackendError as err:
                _logger.warning("%s", err)
            else:
                self._entries[record.sha256] = found
                return engine
        others = self._cache.why_none(wanted)
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
            options=self._options.engine,
            cache=self._cache,
        )
        if provided.entry is not None:
            self._entries[record.sha256] = provided.entry
        return provided.engine


def _frame_sizes(image: ShapeRange) -> FrameSizes:
    """From the range of (B, H, W)."""
    smallest, typical, largest = (
        (shape[1], shape[2]) for shape in (image.smallest, image.typical, image.largest)
    )
    return FrameSizes(smallest, typical, largest)
