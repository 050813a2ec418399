"""What is benchmarked."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.backends.onnxruntime_backend import CPU_PROVIDER, OnnxRuntimeBackend, ort
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MASK_DECODER, mask_input_hw
from samus_edge.runtime.prediction import mask_decoder_feeds
from samus_edge.runtime.prompts import check_prompts, decoder_prompts

if TYPE_CHECKING:
    from samus_edge.runtime.backends.gpu.device import Device


def resident_bytes(process: int | str = "self") -> int | None:
    """Memory of a process that is in RAM; None where the operating system does not say."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


WARM_UP_RUNS = 3
"""Runs of every subject before it is timed."""


class MemoryMeter:
    """Measures the memory that is taken from now on, of this process and of a GPU."""

    def __init__(self, gpu: "Device | None" = None) -> None:
        self._gpu = gpu
        self._before = self._now()

    def growth(self) -> tuple[int | None, int | None]:
        """Bytes of the process, and of the GPU; None where they are not known."""
        resident, on_gpu = (
            None if before is None or after is None else after - before
            for before, after in zip(self._before, self._now(), strict=True)
        )
        return resident, on_gpu

    def _now(self) -> tuple[int | None, int | None]:
        if self._gpu is None:
            return resident_bytes(), None
        with self._gpu.current():
            return resident_bytes(), -self._gpu.free_memory_bytes()


def cpu_session(
    graph: bytes | str, threads: int | None = None, *, profile: str = ""
) -> ort.InferenceSession:
    """A graph, or its file, on ONNX Runtime's CPU provider, with the runtime's own settings.

    Args:
        graph: ONNX.
        threads: CPU threads that compute it; None for `default_threads`.
        profile: beginning of the path of ONNX Runtime's profile; "" for none.
    """
    options = OnnxRuntimeBackend(threads).session_options()
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(graph, options, providers=[CPU_PROVIDER])


_BOX = (0.25, 0.25, 0.75, 0.75)  # of the frame's sides


@dataclass(frozen=True, eq=False)
class Workload:
    """What every subject computes.

    Attributes:
        frame: (H, W), uint8, grey.
        box: XYXY, pixels of the frame.
        batches: numbers of frames that the image encoder takes in one run.
        prompts: numbers of boxes that the mask decoder takes in one run.
    """

    frame: npt.NDArray[np.uint8]
    box: tuple[float, float, float, float]
    batches: tuple[int, ...] = (1,)
    prompts: tuple[int, ...] = (1,)

    @staticmethod
    def of(
        frame: npt.NDArray[np.uint8],
        batches: tuple[int, ...] = (1,),
        prompts: tuple[int, ...] = (1,),
    ) -> "Workload":
        """A frame with a box around its middle."""
        height, width = frame.shape
        x1, y1, x2, y2 = _BOX
        return Workload(frame, (x1 * width, y1 * height, x2 * width, y2 * height), batches, prompts)

    @property
    def original_hw(self) -> tuple[int, int]:
        """(H, W) of the frame, pixels."""
        height, width = self.frame.shape
        return height, width

    def frames(self, count: int) -> npt.NDArray[np.uint8]:
        """(count, H, W): the frame, turned a little further each time, so that none is like
        another."""
        return np.stack([np.roll(self.frame, index, axis=1) for index in range(count)])

    def boxes(self, count: int) -> npt.NDArray[np.float32]:
        """(count, 4): the box, moved by a pixel each time."""
        x1, y1, x2, y2 = self.box
        shift = np.arange(count, dtype=np.float32)[:, None] % 8
        return np.asarray([[x1, y1, x2, y2]], np.float32) + shift

    def decoder_feeds(self, bundle: Bundle, embeddings: Any, count: int) -> Mapping[str, Any]:
        """What one run of the mask decoder graph is fed.

        Args:
            bundle: the bundle of the graph.
            embeddings: embeddings of the frame, on the host or on the device that decodes.
            count: number of boxes.
        """
        hw = mask_input_hw(bundle.graph_record(MASK_DECODER))
        prompts = check_prompts(self.original_hw, boxes=self.boxes(count), mask_input_hw=hw)
        (group,) = decoder_prompts(prompts, bundle.manifest.prompts.size)
        return mask_decoder_feeds(embeddings, group, None, hw)


END_TO_END = "end_to_end"
STAGES = (IMAGE_ENCODER, MASK_DECODER, END_TO_END)
"""Raw frame to embedding; embedding and boxes to logits; raw frame and one box to a mask of its
size."""


@dataclass(frozen=True)
class Stage:
    """Something of a subject that is timed.

    Attributes:
        name: one of `STAGES`.
        items: frames or prompts of one run.
        run: does it once, from arrays of the host, until the result is there: arrays of the host,
            or the embedding where the decoder wants it.
        device_milliseconds: does it a number of times between arrays of the device, and gives the
            time of each by the device's own clock; None where there is no such clock.
    """

    name: str
    items: int
    run: Callable[[], object]
    device_milliseconds: Callable[[int], list[float]] | None = None


@dataclass(eq=False)
class Subject:
    """One way to compute a bundle.

    Attributes:
        name: its name for people, for example "onnxruntime fp32".
        stages: the stages that can be timed.
        device: the device that computes.
        version: version of the engine.
        precision: precision of most of its arithmetic, for example "fp32".
        is_on_gpu: whether a GPU computes.
        memory_bytes: growth of the process with it, its first runs included; None if not known.
        gpu_memory_bytes: memory that it takes of the GPU; None if there is none.
    """

    name: str
    stages: Sequence[Stage] = ()
    device: str = "cpu"
    version: str = ""
    precision: str = "fp32"
    is_on_gpu: bool = False
    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None

    def close(self) -> None:
        """Give everything back."""
