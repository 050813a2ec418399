"""Many frames in a row: the same masks, and no memory that is not given back."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from samus_edge.benchmarking.subject import resident_bytes
from samus_edge.benchmarking.turns import Latency
from samus_edge.runtime.bundle.check_frame import CheckFrame
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["SoakResult", "soak"]

_WARM_UP_PASSES = 2


@dataclass(frozen=True)
class SoakResult:
    """What many frames in a row came to.

    Attributes:
        frames: that were segmented.
        differing: whose mask was not, bit by bit, that of the same frame before.
        latency: of one frame with one box, from host to host.
        memory_growth_bytes: of this process, from the warm-up's end to the last frame; None if not known.
        gpu_memory_growth_bytes: less free on the GPU; None if there is none.
    """

    frames: int
    differing: int
    latency: Latency
    memory_growth_bytes: int | None
    gpu_memory_growth_bytes: int | None

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


def soak(
    segmenter: Segmenter,
    frames: Sequence[CheckFrame],
    count: int,
    *,
    on_frame: Callable[[], None] = lambda: None,
) -> SoakResult:
    """Segment frames over and over.

    Args:
        segmenter: what segments.
        frames: in turns, each with its box.
        count: of frames to segment, after each was segmented twice.
        on_frame: called after each.

    Raises:
        BackendError: if the backend fails.
    """
    gpu = segmenter.backend.gpu

    def segment(frame: CheckFrame) -> str:
        masks = segmenter.segment(frame.image, boxes=frame.box[None]).masks
        return hashlib.sha256(masks.tobytes()).hexdigest()

    for _ in range(_WARM_UP_PASSES):
        expected = [segment(frame) for frame in frames]
    resident, free = resident_bytes(), None if gpu is None else gpu.free_memory_bytes()
    milliseconds: list[float] = []
    differing = 0
    for index in range(count):
        begun = time.perf_counter()
        found = segment(frames[index % len(frames)])
        milliseconds.append((time.perf_counter() - begun) * 1e3)
        differing += found != expected[index % len(frames)]
        on_frame()
    after = resident_bytes()
    return SoakResult(
        count,
        differing,
        Latency.of(milliseconds),
        None if resident is None or after is None else after - resident,
        None if gpu is None or free is None else free - gpu.free_memory_bytes(),
    )
