"""How Triton Inference Server is to serve a bundle."""

import re
from dataclasses import dataclass

__all__ = ["VARIANTS", "TritonSettings"]

VARIANTS = ("onnx", "tensorrt")
"""`onnx` runs on the CPU or CUDA, wherever the server is; `tensorrt` needs an NVIDIA GPU."""

_PREFIX = re.compile(r"[A-Za-z0-9_-]*")
_MIN_POINTS = 2  # what the exported mask decoder takes: a box, or one point and its padding


@dataclass(frozen=True)
class TritonSettings:
    """How Triton Inference Server is to serve a bundle.

    Frame sizes and the number of points bind the TensorRT variant alone: an engine is built for a
    range of shapes, and is fastest at the typical one.

    Raises:
        ValueError: naming every setting that is wrong.
    """

    variants: tuple[str, ...] = VARIANTS
    """Which of `VARIANTS` to write."""
    version: int = 1
    """Number of the version folders; 1 or more. The only one that the server then serves."""
    prefix: str = ""
    """In front of every model's name; ASCII letters, digits, "_" and "-". For several bundles on one
    server."""
    instances: int = 1
    """Copies of each model on each GPU, or on the CPU; 1 or more."""
    max_frames: int = 8
    """Frames in one run of the image encoder; 1 or more."""
    max_prompts: int = 32
    """Prompts in one run of the mask decoder; 1 or more."""
    max_points: int = 16
    """Points of a prompt, box corners and padding included; 2 or more."""
    min_frame_hw: tuple[int, int] = (32, 32)
    """Smallest frame, (H, W), pixels."""
    typical_frame_hw: tuple[int, int] = (480, 640)
    """The frame to tune and warm up for, (H, W), pixels."""
    max_frame_hw: tuple[int, int] = (1200, 1920)
    """Largest frame, (H, W), pixels; each side at least that of the smallest."""
    queue_delay_us: int = 1000
    """How long a request may wait for others to join its batch, microseconds; 0 or more."""
    max_queue_size: int = 64
    """Requests that may wait for a model, which bounds memory; 1 or more."""
    queue_timeout_ms: int = 1000
    """A request that has waited longer is refused, milliseconds; 1 or more."""

    def __post_init__(self) -> None:
        """Check every setting."""
        problems = [
            f"{name} must be {least} or more, got {getattr(self, name)}"
            for name, least in (
                ("version", 1),
                ("instances", 1),
                ("max_frames", 1),
                ("max_prompts", 1),
                ("max_points", _MIN_POINTS),
                ("queue_delay_us", 0),
                ("max_queue_size", 1),
                ("queue_timeout_ms", 1),
            )
            if getattr(self, name) < least
        ]
        is_known = set(self.variants) <= set(VARIANTS)
        if not self.variants or not is_known or len(set(self.variants)) < len(self.variants):
            problems.append(f"variants must be one or both of {VARIANTS}, got {self.variants}")
        if not _PREFIX.fullmatch(self.prefix):
            problems.append(
                f"prefix may have ASCII letters, digits, '_' and '-', got {self.prefix!r}"
            )
        sizes = (self.min_frame_hw, self.typical_frame_hw, self.max_frame_hw)
        for small, middle, large in zip(*sizes, strict=True):
            if not 1 <= small <= middle <= large:
                problems.append(
                    "min_frame_hw, typical_frame_hw and max_frame_hw must be 1 or more and not "
                    f"decrease on either side, got {', '.join(map(str, sizes))}"
                )
                break
        if problems:
            raise ValueError("; ".join(problems) + ".")
