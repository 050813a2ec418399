"""Evaluation of anything that segments from prompts, lesion by lesion."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import cv2
import numpy as np

from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.data.prompt_protocol import (
    STANDARD_PROTOCOLS,
    Prompt,
    PromptProtocol,
    case_generator,
    scale_prompt,
)
from samus_edge.errors import BadArgumentError, DataError
from samus_edge.evaluation.image_perturbation import Image, ImagePerturbation
from samus_edge.evaluation.metrics import (
    Mask,
    dice,
    hausdorff_distance,
    hausdorff_distance_95,
    iou,
    normalised_surface_dice,
    resize_mask,
    row_hausdorff_distance,
)
from samus_edge.evaluation.predictor import Embedding, Predictor, predict_prompts
from samus_edge.evaluation.report import EvaluationReport
from samus_edge.evaluation.summary import (
    AS_IS,
    InstanceScore,
    Variant,
    equivalent_diameter_px,
    lesion_size,
    merge_variants,
    summarise,
)

__all__ = ["DISTANCE_HW", "NSD_TOLERANCE_PX", "evaluate", "perturbed_image"]

DISTANCE_HW: Final = (256, 256)
"""Size at which distances are measured, pixels, as SAMUS and the report do: both masks are resized
to it without keeping the aspect, so distances compare between images of different sizes."""

NSD_TOLERANCE_PX: Final = 2.0
"""Deviation that the normalised surface Dice accepts, pixels at ``DISTANCE_HW``: 0.8 % of the image."""


def evaluate(
    predictor: Predictor[Embedding],
    cases: Sequence[UltrasoundCase],
    *,
    protocols: Sequence[PromptProtocol] = STANDARD_PROTOCOLS,
    variants: Sequence[Variant] = (),
    seed: int = 0,
    groups: Mapping[str, int] | None = None,
    about: Mapping[str, str] | None = None,
    on_case: Callable[[UltrasoundCase], None] | None = None,
) -> EvaluationReport:
    """Segment every lesion of the cases from every kind of prompt, and score the masks.

    Each mask file of an image is one lesion with its own prompt and score. Dice and IoU are
    measured at the image's own size, distances at ``DISTANCE_HW``. Every image is encoded once, and
    once more for each perturbation; a mask of an image that was resized is resized back.

    Args:
        predictor: What segments.
        cases: Cases to evaluate on; those without a lesion contribute nothing.
        protocols: Kinds of prompt, given on the images as they are, and summarised.
        variants: What to score besides, such as the rows of the robustness table.
        seed: Of the prompts and perturbations, together with each case's key, and of the bootstrap;
            at least 0.
        groups: Group number of each case key; cases that share one are near-duplicates and are
            resampled together for the interval. A case without a group is its own.
        about: What is evaluated on what; carried into the report.
        on_case: Called after each case, for progress.

    Returns:
        Scores, and summaries of ``protocols``.

    Raises:
        ValueError: If there is no protocol, or if the seed is negative.
        DataError: If no case has a lesion, or if files are missing or broken.
    """
    if not protocols:
        raise BadArgumentError("protocols must name at least one kind of prompt, got none.")
    if seed < 0:
        raise BadArgumentError(f"seed must be at least 0, got {seed}.")
    groups = groups or {}
    merged = merge_variants([Variant(tuple(protocols)), *variants])
    scores: list[InstanceScore] = []
    for case in cases:
        group = f"group {groups[case.key]}" if case.key in groups else case.key
        targets = read_instances(case)
        if targets:
            image = read_image(case)
            for variant in merged:
                scores += _score_variant(predictor, case, image, targets, variant, seed, group)
        if on_case is not None:
            on_case(case)
    if not scores:
        raise DataError(
            f"None of the {len(cases)} cases has a lesion, so there is nothing to evaluate."
        )
    # Protocols together, which is how the scores are read.
    pairs = [(variant.image, protocol.name) for variant in merged for protocol in variant.protocols]
    order = {pair: position for position, pair in enumerate(pairs)}
    scores.sort(key=lambda score: order[score.image, score.prompt])
    summarised = {protocol.name for protocol in protocols}
    standard = [score for score in scores if score.image == AS_IS and score.prompt in summarised]
    return EvaluationReport(tuple(scores), summarise(standard, seed), seed, dict(about or {}))


def perturbed_image(
    image: Image, perturbation: ImagePerturbation | None, key: str, seed: int
) -> Image:
    """The (H, W) image of a case as it is encoded; the same in every run."""
    if perturbation is None:
        return image
    # All strengths of a noise draw the same numbers, so their results compare image by image.
    return perturbation.apply(image, case_generator(f"{key}\nimage", 0, seed))


def _score_variant(
    predictor: Predictor[Embedding],
    case: UltrasoundCase,
    image: Image,
    targets: Sequence[Mask],
    variant: Variant,
    seed: int,
    group: str,
) -> list[InstanceScore]:
    """Encode one image, segment all lesions in one call per protocol, and score each."""
    original_hw = (image.shape[0], image.shape[1])
    encoded = perturbed_image(image, variant.perturbation, case.key, seed)
    encoded_hw = (encoded.shape[0], encoded.shape[1])
    embedding = predictor.encode(encoded)
    scores = []
    for protocol in variant.protocols:
        prompts = [
            scale_prompt(
                protocol.prompt(target, case_generator(case.key, instance, seed)),
                original_hw,
                encoded_hw,
            )
            for instance, target in enumerate(targets)
        ]
        predicted = predict_prompts(predictor, embedding, prompts)
        for instance, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            prediction = _resize_back(predicted.masks[instance, 0], original_hw)
            iou_prediction = float(predicted.iou_predictions[instance, 0])
            names = (variant.image, protocol.name)
            scores.append(
                _score(case, instance, group, names, prompt, prediction, target, iou_prediction)
            )
    return scores


def _resize_back(mask: Mask, original_hw: tuple[int, int]) -> Mask:
    """The mask at the image's own size: interpolated, then thresholded at a half."""
    if mask.shape == original_hw:
        return mask
    shrinks = original_hw[0] <= mask.shape[0] and original_hw[1] <= mask.shape[1]
    grey = cv2.resize(
        mask.astype(np.float32),
        original_hw[::-1],
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return np.asarray(np.asarray(grey) > 0.5)


def _score(
    case: UltrasoundCase,
    instance: int,
    group: str,
    image_and_prompt: tuple[str, str],
    prompt: Prompt,
    prediction: Mask,
    target: Mask,
    iou_prediction: float,
) -> InstanceScore:
    small = resize_mask(prediction, DISTANCE_HW), resize_mask(target, DISTANCE_HW)
    diameter_px = equivalent_diameter_px(target)
    return InstanceScore(
        key=case.key,
        class_name=case.class_name,
        instance=instance,
        group=group,
        size=lesion_size(diameter_px),
        diameter_px=diameter_px,
        image=image_and_prompt[0],
        prompt=image_and_prompt[1],
        prompt_coords=prompt.coords_text,
        height=target.shape[0],
        width=target.shape[1],
        dice=dice(prediction, target),
        iou=iou(prediction, target),
        nsd=normalised_surface_dice(*small, NSD_TOLERANCE_PX),
        hd=hausdorff_distance(*small),
        hd_manhattan=hausdorff_distance(*small, metric="manhattan"),
        hd95=hausdorff_distance_95(*small),
        hd_rows=row_hausdorff_distance(*small),
        iou_prediction=iou_prediction,
    )
