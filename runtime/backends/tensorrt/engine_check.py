"""Whether engines compute on this device what their graphs compute on ONNX Runtime.

Versions of TensorRT are known that give wrong results for vision transformers without an error. So
no engine is used before it was compared with its graph, on the device that it runs on.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from samus_edge.errors import BackendError
from samus_edge.runtime.agreement import cosine_similarity, largest_difference, mask_iou
from samus_edge.runtime.backends.backend import Predictor
from samus_edge.runtime.bundle.check_frame import CheckFrame

MIN_MEAN_MASK_IOU = 0.995
MIN_WORST_MASK_IOU = 0.96


@dataclass(frozen=True)
class EngineCheck:
    """How far one backend is from another, over all frames and prompts.

    Attributes:
        frames: Number of frames that were compared.
        masks: Number of masks: one for a box, three for a point, on each frame.
        mean_mask_iou: Mean IoU between the masks of both; 1 for a pair of empty ones.
        worst_mask_iou: Smallest IoU of any pair.
        max_logit_error: largest absolute difference of the low-resolution logits.
        worst_embedding_cosine: smallest cosine between the embeddings of a frame.
        failure: the error of a backend that gave no finite numbers, or ""; the figures are then
            those of the frames before.
    """

    frames: int
    masks: int
    mean_mask_iou: float
    worst_mask_iou: float
    max_logit_error: float
    worst_embedding_cosine: float
    failure: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not hold, with the limit; empty if the engines may be used."""
        found = [self.failure] if self.failure else []
        # Written so that NaN does not hold.
        if not self.mean_mask_iou >= MIN_MEAN_MASK_IOU:
            found.append(f"mean mask IoU {self.mean_mask_iou:.4f}, required {MIN_MEAN_MASK_IOU}")
        if not self.worst_mask_iou >= MIN_WORST_MASK_IOU:
            found.append(f"worst mask IoU {self.worst_mask_iou:.4f}, required {MIN_WORST_MASK_IOU}")
        return tuple(found)

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {
            name: value if not isinstance(value, float) or math.isfinite(value) else None
            for name, value in asdict(self).items()
        }

    @staticmethod
    def from_json(value: Mapping[str, object]) -> "EngineCheck":
        """From what `to_json` gave; None becomes NaN."""
        return EngineCheck(
            **{name: math.nan if item is None else item for name, item in value.items()}  # type: ignore[arg-type]
        )


def compare_predictors(
    tested: Predictor, reference: Predictor, frames: Iterable[CheckFrame]
) -> EngineCheck:
    """Run the same prompts on both: a box, and a point with its three alternatives.

    Args:
        tested: The graphs on the engines.
        reference: The same graphs on ONNX Runtime.
        frames: Real frames; see `load_check_frames`.

    Returns:
        The figures; their `problems` say whether the engines may be used.
    """
    ious: list[float] = []
    logit_errors: list[float] = [0.0]
    cosines: list[float] = [1.0]
    done = 0
    failure = ""
    for frame in frames:
        expected_embedding = reference.encode(frame.image)
        try:
            embedding = tested.encode(frame.image)
            cosines.append(
                cosine_similarity(embedding.image_embeddings, expected_embedding.image_embeddings)
            )
            for prompt in (_box(frame), _point(frame)):
                expected = reference.decode(expected_embedding, **prompt)
                actual = tested.decode(embedding, **prompt)
                logit_errors.append(
                    largest_difference(actual.low_res_logits, expected.low_res_logits)
                )
                pairs = zip(actual.masks[0], expected.masks[0], strict=True)
                ious += [mask_iou(mine, theirs) for mine, theirs in pairs]
        except BackendError as err:  # NaN among them
            failure = f"{frame.name}: {err}"
            break
        done += 1
    return EngineCheck(
        frames=done,
        masks=len(ious),
        mean_mask_iou=float(np.mean(ious)) if ious else math.nan,
        worst_mask_iou=min(ious, default=math.nan),
        max_logit_error=max(logit_errors),
        worst_embedding_cosine=min(cosines),
        failure=failure,
    )


def _box(frame: CheckFrame) -> dict[str, object]:
    return {"boxes": frame.box[None]}


def _point(frame: CheckFrame) -> dict[str, object]:
    return {
        "point_coords": frame.point[None, None],
        "point_labels": [[1]],
        "multimask_output": True,
    }
