"""What is benchmarked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["END_TO_END", "IMAGE_ENCODER", "MASK_DECODER", "STAGES", "Stage", "Subject"]

IMAGE_ENCODER, MASK_DECODER, END_TO_END = "image_encoder", "mask_decoder", "end_to_end"
STAGES = (IMAGE_ENCODER, MASK_DECODER, END_TO_END)
"""Raw frame to embedding; embedding and boxes to logits; raw frame and one box to a mask of its size."""


@dataclass(frozen=True)
class Stage:
    """Something of a subject that is timed.

    Attributes:
        name: one of `STAGES`.
        items: frames or prompts of one run.
        run: does it once, from arrays of the host, until the result is there: arrays of the host, or the
            embedding where the decoder wants it.
        device_milliseconds: does it a number of times between arrays of the device, and gives the time
            of each by the device's own clock; None where there is no such clock.
    """

    name: str
    items: int
    run: Callable[[], object]
    device_milliseconds: Callable[[int], list[float]] | None = None


class Subject(Protocol):
    """One way to compute a bundle.

    Attributes:
        name: for people, for example "onnxruntime fp32".
        device: what computes.
        is_on_gpu: whether that is a GPU.
        precision: of most of its arithmetic, for example "fp32".
        version: of the engine.
        stages: what can be timed.
        memory_bytes: by how much the process grew with it, its first runs included; None if not known.
        gpu_memory_bytes: that became less on the GPU; None if there is none.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def is_on_gpu(self) -> bool: ...

    @property
    def precision(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def stages(self) -> Sequence[Stage]: ...

    @property
    def memory_bytes(self) -> int | None: ...

    @property
    def gpu_memory_bytes(self) -> int | None: ...

    def close(self) -> None:
        """Give everything back."""
        ...
