"""What engines are built for: frame sizes, numbers of prompts, and how exactly they compute."""

from dataclasses import dataclass, field

from samus_edge.runtime.graph_contract import mask_input_hw
from samus_edge.runtime.graph_record import GraphRecord
from samus_edge.runtime.tensorrt.engine_profiles import (
    EngineProfile,
    image_encoder_profile,
    mask_decoder_profile,
)

__all__ = ["EngineOptions", "FrameSizes"]


@dataclass(frozen=True)
class FrameSizes:
    """The frames that an image encoder takes, (H, W), pixels.

    Attributes:
        smallest: lower bound.
        typical: what the engine is made fast for.
        largest: upper bound; memory is reserved for it.
    """

    smallest: tuple[int, int] = (64, 64)
    typical: tuple[int, int] = (512, 640)
    largest: tuple[int, int] = (2048, 2048)

    @staticmethod
    def only(height: int, width: int) -> "FrameSizes":
        """One size, which then is a constant of the engine."""
        return FrameSizes((height, width), (height, width), (height, width))


@dataclass(frozen=True)
class EngineOptions:
    """How engines are built; the defaults are right for most.

    Attributes:
        frames: sizes of frames; of no effect on a bundle that takes one size.
        frames_per_run: of the image encoder, in every run; `Segmenter` gives it one.
        most_prompts: that the mask decoder takes in one run; more are split.
        most_points: of one prompt; the two corners of a box count.
        tf32: float32 products are rounded to 10 bits of mantissa; faster on tensor cores.
        workspace_bytes: most memory of the GPU that a layer may take for itself; None for no limit.
    """

    frames: FrameSizes = field(default_factory=FrameSizes)
    frames_per_run: int = 1
    most_prompts: int = 16
    most_points: int = 16
    tf32: bool = False
    workspace_bytes: int | None = None

    def profiles(self, record: GraphRecord) -> tuple[EngineProfile, ...]:
        """The optimisation profiles of a graph; none where it leaves no size open.

        A mask decoder gets two: for one prompt, which is what an operator waits for, and for several.
        A context takes the narrowest that fits.

        Raises:
            ValueError: if the sizes are not positive or not in order, or the graph takes other sizes.
        """
        open_inputs = {
            spec.name for spec in record.inputs if any(isinstance(size, str) for size in spec.shape)
        }
        if not open_inputs:
            return ()
        if "image" in open_inputs:
            frames = self.frames
            sizes = (frames.smallest, frames.typical, frames.largest)
            return (image_encoder_profile(*sizes, frames=self.frames_per_run),)
        hw = mask_input_hw(record)
        one = mask_decoder_profile(hw, most_prompts=1, most_points=self.most_points)
        if self.most_prompts == 1:
            return (one,)
        several = mask_decoder_profile(
            hw,
            typical_prompts=min(4, self.most_prompts),
            most_prompts=self.most_prompts,
            most_points=self.most_points,
        )
        return (one, several)
