"""Parity of a written bundle with the torch model that it was exported from, on real frames."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from samus_edge.errors import ExportMismatchError
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime import Segmenter
from samus_edge.runtime.agreement import largest_difference, mask_iou

MAX_LOGIT_ERROR = 1e-3
MIN_MASK_IOU = 0.999
MAX_PROPOSAL_ERROR = 0.05  # pixels of the model's input


@dataclass(frozen=True)
class ParityReport:
    """Largest differences between the shipped graphs on ONNX Runtime and torch.

    Attributes:
        frames: frames compared.
        prompts: prompts compared, over all frames.
        max_abs_embedding_error: largest difference of the image embeddings.
        max_abs_logit_error: largest difference of the low-resolution logits, all M masks.
        min_mask_iou: lowest IoU of the single masks at frame size; 1 where both are empty.
        frame_sizes: the frames' (H, W).
        max_proposal_error: largest difference of a proposed box's coordinate, pixels of the model's
            input; 0 without a lesion proposer.
    """

    frames: int
    prompts: int
    max_abs_embedding_error: float
    max_abs_logit_error: float
    min_mask_iou: float
    frame_sizes: tuple[tuple[int, int], ...]
    max_proposal_error: float = 0.0

    def check(self) -> None:
        """Raise where a gate does not hold.

        Raises:
            ExportMismatchError: naming the number and the gate.
        """
        problems = []
        if not self.max_abs_logit_error <= MAX_LOGIT_ERROR:
            problems.append(
                f"max logit error {self.max_abs_logit_error:.2e}, allowed {MAX_LOGIT_ERROR:.0e}"
            )
        if not self.min_mask_iou >= MIN_MASK_IOU:
            problems.append(f"worst mask IoU {self.min_mask_iou:.5f}, required {MIN_MASK_IOU}")
        if not self.max_proposal_error <= MAX_PROPOSAL_ERROR:
            problems.append(
                f"proposed boxes {self.max_proposal_error:.2e} pixels apart, allowed "
                f"{MAX_PROPOSAL_ERROR:.0e}"
            )
        if problems:
            raise ExportMismatchError(
                f"The exported graphs differ from the model on {self.frames} frames: "
                f"{'; '.join(problems)}. Nothing was written."
            )

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {**asdict(self), "frame_sizes": [list(size) for size in self.frame_sizes]}


def measure_parity(
    model: SamusHF, bundle: Path, frames: Sequence[npt.NDArray[np.uint8]], *, seed: int = 0
) -> ParityReport:
    """Run the bundle's files and the model on the same frames and prompts.

    Every frame gets a box, another box with a point, and a point with a negative point, drawn by
    seed.

    Args:
        model: the exported model, with folded and rounded weights.
        bundle: the bundle's folder.
        frames: (H, W), uint8, grey; sizes may differ.
        seed: seed of the prompts.

    Returns:
        The largest differences.
    """
    rng = np.random.default_rng(seed)
    reference = TorchPredictor(model)
    embedding_errors, logit_errors, proposal_errors, ious = [0.0], [0.0], [0.0], [1.0]
    prompts = 0
    with Segmenter.load(bundle, backend="onnxruntime") as segmenter:
        for frame in frames:
            shipped_embedding, embedding = segmenter.encode(frame), reference.encode(frame)
            embedding_errors.append(
                largest_difference(shipped_embedding.image_embeddings, embedding.image_embeddings)
            )
            if model.lesion_proposer is not None:
                boxes = segmenter.proposed(shipped_embedding)["boxes"]
                proposed, *_ = model.lesion_proposer.propose(
                    torch.from_numpy(embedding.image_embeddings)
                )
                proposal_errors.append(largest_difference(boxes, proposed.numpy()))
            for prompt in _random_prompts(frame.shape[1], frame.shape[0], rng):
                prompts += 1
                for multimask in (False, True):
                    options: dict[str, Any] = {**prompt, "multimask_output": multimask}
                    shipped = segmenter.decode(shipped_embedding, **options)
                    expected = reference.decode(embedding, **options)
                    logit_errors.append(
                        largest_difference(shipped.low_res_logits, expected.low_res_logits)
                    )
                    if not multimask:
                        ious.append(mask_iou(shipped.masks[0, 0], expected.masks[0, 0]))
    return ParityReport(
        frames=len(frames),
        prompts=prompts,
        max_abs_embedding_error=max(embedding_errors),
        max_abs_logit_error=max(logit_errors),
        min_mask_iou=min(ious),
        max_proposal_error=max(proposal_errors),
        frame_sizes=tuple((frame.shape[0], frame.shape[1]) for frame in frames),
    )


def _random_prompts(width: int, height: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A box; a box and a point; two points of both labels; in pixels of the frame."""
    last = np.array([width - 1, height - 1])
    boxes = []
    for _ in range(2):
        corner = rng.uniform(0.0, 0.5, size=2) * last
        opposite = corner + rng.uniform(0.2, 0.5, size=2) * last
        boxes.append(np.concatenate((corner, opposite))[None].astype(np.float32))
    points = (rng.uniform(0.1, 0.9, size=(1, 3, 2)) * last).astype(np.float32)
    return [
        {"boxes": boxes[0]},
        {
            "boxes": boxes[1],
            "point_coords": points[:, :1],
            "point_labels": np.array([[1]], np.int32),
        },
        {"point_coords": points[:, 1:], "point_labels": np.array([[1, 0]], np.int32)},
    ]
