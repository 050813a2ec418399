"""Evaluation of anything that segments from prompts, lesion by lesion."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from samus_edge.data.busi import UltrasoundCase, read_image, read_instances
from samus_edge.errors import DataError
from samus_edge.evaluation.metrics import (
    Mask,
    dice,
    hausdorff_distance,
    hausdorff_distance_95,
    iou,
    resize_mask,
    row_hausdorff_distance,
)
from samus_edge.evaluation.prompt_protocol import (
    STANDARD_PROTOCOLS,
    BoxProtocol,
    PromptProtocol,
    case_generator,
    centre_point,
    jittered_box,
)
from samus_edge.evaluation.report import EvaluationReport, InstanceScore, summarise

__all__ = ["DISTANCE_HW", "PredictedMasks", "Predictor", "evaluate"]

DISTANCE_HW: Final = (256, 256)
"""Size at which distances are measured, pixels, as SAMUS and the report do: both masks are resized
to it without keeping the aspect, so distances compare between images of different sizes."""

Embedding = TypeVar("Embedding")


class PredictedMasks(Protocol):
    """What a predictor returns for N prompts."""

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """(N, 1, H, W) masks at the size of the image."""
        ...

    @property
    def iou_predictions(self) -> npt.NDArray[np.float32]:
        """(N, 1) the model's estimates of the masks' IoU."""
        ...


class Predictor(Protocol[Embedding]):
    """What is evaluated; `samus_edge.runtime.Segmenter` is one."""

    def encode(self, image: npt.NDArray[np.uint8], /) -> Embedding:
        """Encode a (H, W) grey image, 0..255, once for all its prompts."""
        ...

    def predict(
        self,
        embedding: Embedding,
        /,
        *,
        boxes: npt.NDArray[np.float32] | None = None,
        point_coords: npt.NDArray[np.float32] | None = None,
        point_labels: npt.NDArray[np.int32] | None = None,
    ) -> PredictedMasks:
        """Segment from (N, 4) boxes, or from (N, 1, 2) points with (N, 1) labels.

        Both are in pixels of the image; see `samus_edge.evaluation.prompt_protocol`.
        """
        ...


def evaluate(
    predictor: Predictor[Embedding],
    cases: Sequence[UltrasoundCase],
    *,
    protocols: Sequence[PromptProtocol] = STANDARD_PROTOCOLS,
    seed: int = 0,
    groups: Mapping[str, int] | None = None,
    about: Mapping[str, str] | None = None,
    on_case: Callable[[UltrasoundCase], None] | None = None,
) -> EvaluationReport:
    """Segment every lesion of the cases from every kind of prompt, and score the masks.

    Each mask file of an image is one lesion with its own prompt and score. Dice and IoU are
    measured at the image's own size, distances at ``DISTANCE_HW``.

    Args:
        predictor: What segments.
        cases: Cases to evaluate on; those without a lesion contribute nothing.
        protocols: Kinds of prompt.
        seed: Of the prompts, together with each case's key, and of the bootstrap; at least 0.
        groups: Group number of each case key; cases that share one are near-duplicates and are
            resampled together for the interval. A case without a group is its own.
        about: What is evaluated on what; carried into the report.
        on_case: Called after each case, for progress.

    Returns:
        Scores and summaries.

    Raises:
        ValueError: If there is no protocol, or if the seed is negative.
        DataError: If no case has a lesion, or if files are missing or broken.
    """
    if not protocols:
        raise ValueError("protocols must name at least one kind of prompt, got none.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    groups = groups or {}
    scores: list[InstanceScore] = []
    for case in cases:
        group = f"group {groups[case.key]}" if case.key in groups else case.key
        targets = read_instances(case)
        if targets:
            embedding = predictor.encode(read_image(case))
            for protocol in protocols:
                scores += _score_case(predictor, embedding, case, targets, protocol, seed, group)
        if on_case is not None:
            on_case(case)
    if not scores:
        raise DataError(
            f"None of the {len(cases)} cases has a lesion, so there is nothing to evaluate."
        )
    # Protocols together, which is how the scores are read.
    order = {protocol.name: position for position, protocol in enumerate(protocols)}
    scores.sort(key=lambda score: order[score.prompt])
    return EvaluationReport(tuple(scores), summarise(scores, seed), seed, dict(about or {}))


def _score_case(
    predictor: Predictor[Embedding],
    embedding: Embedding,
    case: UltrasoundCase,
    targets: Sequence[Mask],
    protocol: PromptProtocol,
    seed: int,
    group: str,
) -> list[InstanceScore]:
    """Segment all lesions of a case in one call, and score each."""
    if isinstance(protocol, BoxProtocol):
        prompts = np.stack(
            [
                jittered_box(target, protocol.jitter, case_generator(case.key, instance, seed))
                for instance, target in enumerate(targets)
            ]
        )  # (N, 4)
        predicted = predictor.predict(embedding, boxes=prompts)
    else:
        prompts = np.stack([centre_point(target) for target in targets])  # (N, 2)
        labels = np.ones((len(targets), 1), dtype=np.int32)
        predicted = predictor.predict(
            embedding, point_coords=prompts[:, None, :], point_labels=labels
        )
    return [
        _score(
            case,
            instance,
            group,
            protocol,
            prompts[instance],
            predicted.masks[instance, 0],
            target,
            float(predicted.iou_predictions[instance, 0]),
        )
        for instance, target in enumerate(targets)
    ]


def _score(
    case: UltrasoundCase,
    instance: int,
    group: str,
    protocol: PromptProtocol,
    prompt: npt.NDArray[np.float32],
    prediction: Mask,
    target: Mask,
    iou_prediction: float,
) -> InstanceScore:
    small = resize_mask(prediction, DISTANCE_HW), resize_mask(target, DISTANCE_HW)
    return InstanceScore(
        key=case.key,
        class_name=case.class_name,
        instance=instance,
        group=group,
        prompt=protocol.name,
        prompt_coords=" ".join(f"{value:.2f}" for value in prompt),
        height=target.shape[0],
        width=target.shape[1],
        dice=dice(prediction, target),
        iou=iou(prediction, target),
        hd=hausdorff_distance(*small),
        hd_manhattan=hausdorff_distance(*small, metric="manhattan"),
        hd95=hausdorff_distance_95(*small),
        hd_rows=row_hausdorff_distance(*small),
        iou_prediction=iou_prediction,
    )
