"""The runtime on one of its backends."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from samus_edge.benchmarking.subject import (
    END_TO_END,
    IMAGE_ENCODER,
    MASK_DECODER,
    Stage,
    Workload,
    resident_bytes,
)
from samus_edge.runtime.backends.backend import Backend, GraphSession, open_bundle_graph
from samus_edge.runtime.backends.onnxruntime_backend import CPU_PROVIDER
from samus_edge.runtime.backends.tensorrt.tensorrt_session import TensorRTSession
from samus_edge.runtime.bundle.bundle import Bundle, precision_name, select_graphs
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["RuntimeSubject"]


class RuntimeSubject:
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
            backend: what computes.
            precision: as the bundle calls it; "auto" for its reference.
            workload: what is computed.
            backend_for_batch: one whose image encoder takes that number of frames in a run; None if
                `backend` takes any.
            label: to name it; None for backend and precision.

        Raises:
            BackendError: if the backend cannot run the bundle.
        """
        self.precision = precision_name(bundle, precision)
        self.name = label or f"{backend.name} {self.precision}"
        self.device, self.version = backend.device, backend.version
        self.is_on_gpu = backend.device != CPU_PROVIDER
        self.memory_bytes: int | None = None
        self.gpu_memory_bytes: int | None = None
        self.stages: Sequence[Stage] = ()
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
        backend, gpu = self._backend, self._backend.gpu
        before, free = resident_bytes(), None if gpu is None else gpu.free_memory_bytes()
        segmenter = self._closing.enter_context(Segmenter(bundle, backend, self.precision))

        def segment() -> object:
            return segmenter.segment(workload.frame, boxes=workload.boxes(1))

        for _ in range(3):
            segment()
        after = resident_bytes()
        self.memory_bytes = None if before is None or after is None else max(0, after - before)
        if gpu is not None and free is not None:
            self.gpu_memory_bytes = max(0, free - gpu.free_memory_bytes())

        graphs = select_graphs(bundle, self.precision)
        stages: list[Stage] = []
        encoder: GraphSession | None = None
        for count in workload.batches:
            maker = backend if count == 1 or backend_for_batch is None else backend_for_batch(count)
            if encoder is None or maker is not backend:
                session = open_bundle_graph(maker, bundle, graphs.image_encoder)
                self._closing.callback(session.close)
                encoder = encoder or session
            else:
                session = encoder
            most = session.largest("image", 0)
            if most is None or count <= most:
                feeds = {"image": workload.frames(count)}
                stages.append(_stage(IMAGE_ENCODER, count, session, feeds))
        if encoder is None:
            encoder = open_bundle_graph(backend, bundle, graphs.image_encoder)
            self._closing.callback(encoder.close)
        embeddings = encoder.run_on_device({"image": workload.frames(1)})["image_embeddings"]
        decoder = open_bundle_graph(backend, bundle, graphs.mask_decoder)
        self._closing.callback(decoder.close)
        most = decoder.largest("point_coords", 0)
        for count in workload.prompts:
            if most is None or count <= most:
                feeds = dict(workload.decoder_feeds(bundle, embeddings, count))
                stages.append(_stage(MASK_DECODER, count, decoder, feeds))
        stages.append(Stage(END_TO_END, 1, segment))
        self.stages = stages

    def close(self) -> None:
        """Close the graphs."""
        self._closing.close()


def _stage(name: str, items: int, session: GraphSession, feeds: Mapping[str, Any]) -> Stage:
    run = session.run if name == MASK_DECODER else session.run_on_device
    on_device = None
    if isinstance(session, TensorRTSession):
        on_device = partial(session.device_milliseconds, feeds)
    return Stage(name, items, partial(run, feeds), on_device)
