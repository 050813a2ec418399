"""The runtime on one of its backends."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from samus_edge.benchmarking.subject import (
    END_TO_END,
    WARM_UP_RUNS,
    MemoryMeter,
    Stage,
    Subject,
    Workload,
)
from samus_edge.runtime.backends.backend import Backend, GraphSession, open_bundle_graph
from samus_edge.runtime.backends.onnxruntime_backend import CPU_PROVIDER
from samus_edge.runtime.backends.tensorrt.tensorrt_session import TensorRTSession
from samus_edge.runtime.bundle.bundle import Bundle, precision_name, select_graphs
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MASK_DECODER
from samus_edge.runtime.segmenter import Segmenter


class RuntimeSubject(Subject):
    """A bundle in one precision on one backend."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        precision: str,
        workload: Workload,
        *,
        backend_for_batch: Callable[[int], Backend] | None = None,
        label: str | None = None,
    ) -> None:
        """Open it and run it.

        Args:
            bundle: opened.
            backend: the backend that computes.
            precision: its name in the bundle; "auto" for its reference.
            workload: the work that is timed.
            backend_for_batch: makes one whose image encoder takes that number of frames in a run;
                None if `backend` takes any.
            label: its name; None for backend and precision.

        Raises:
            BackendError: if the backend cannot run the bundle.
        """
        precision = precision_name(bundle, precision)
        super().__init__(
            label or f"{backend.name} {precision}",
            device=backend.device,
            version=backend.version,
            precision=precision,
            is_on_gpu=backend.device not in (CPU_PROVIDER, "CPU"),
        )
        self._backend = backend
        self._closing = ExitStack()
        try:
            self._open(bundle, workload, backend_for_batch)
        except BaseException:
            self.close()
            raise

    def _open(
        self,
        bundle: Bundle,
        workload: Workload,
        backend_for_batch: Callable[[int], Backend] | None,
    ) -> None:
        backend = self._backend
        meter = MemoryMeter(backend.gpu)
        segmenter = self._closing.enter_context(Segmenter(bundle, backend, self.precision))

        def segment() -> object:
            return segmenter.segment(workload.frame, boxes=workload.boxes(1))

        for _ in range(WARM_UP_RUNS):
            segment()
        self.memory_bytes, self.gpu_memory_bytes = meter.growth()
        self.version = backend.version  # which says so if CUDA graphs were lost in these runs

        graphs = select_graphs(bundle, self.precision)

        def opened(graph: str, maker: Backend = backend) -> GraphSession:
            session = open_bundle_graph(maker, bundle, graph)
            self._closing.callback(session.close)
            return session

        encoder = opened(graphs.image_encoder)
        stages: list[Stage] = []
        for count in workload.batches:
            session = encoder
            if count > 1 and backend_for_batch is not None:
                session = opened(graphs.image_encoder, backend_for_batch(count))
            if _takes(session, "image", count):
                feeds = {"image": workload.frames(count)}
                stages.append(_stage(IMAGE_ENCODER, count, session, feeds))
        embeddings = encoder.run_on_device({"image": workload.frames(1)})["image_embeddings"]
        decoder = opened(graphs.mask_decoder)
        for count in workload.prompts:
            if _takes(decoder, "point_coords", count):
                feeds = dict(workload.decoder_feeds(bundle, embeddings, count))
                stages.append(_stage(MASK_DECODER, count, decoder, feeds))
        self.stages = [*stages, Stage(END_TO_END, 1, segment)]

    def close(self) -> None:
        """Close the graphs."""
        self._closing.close()


def _takes(session: GraphSession, name: str, count: int) -> bool:
    largest = session.largest(name, 0)
    return largest is None or count <= largest


def _stage(name: str, items: int, session: GraphSession, feeds: Mapping[str, Any]) -> Stage:
    run = session.run if name == MASK_DECODER else session.run_on_device
    on_device = None
    if isinstance(session, TensorRTSession):
        on_device = partial(session.device_milliseconds, feeds)
    return Stage(name, items, partial(run, feeds), on_device)
