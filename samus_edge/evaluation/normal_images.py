"""What prompts give where there is no lesion.

A promptable model is asked to segment something and mostly will: what it marks on a normal image is
its behaviour, not an error rate as of a detector. What can be asked of it is that its own estimate
of the IoU is lower there than on lesions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.data.prompt_protocol import CENTRE_POINT, JITTERED_BOX, Prompt, mask_box
from samus_edge.errors import DataError
from samus_edge.evaluation.predictor import Embedding, Predictor, predict_prompts
from samus_edge.evaluation.summary import AS_IS, InstanceScore

LESION_PROMPTS: Final = {"typical_box": JITTERED_BOX.name, "image_centre": CENTRE_POINT.name}
"""Prompts on normal images, with the protocol on lesions that each is compared with."""


@dataclass(frozen=True)
class NormalsSummary:
    """What one kind of prompt gives on the images without a lesion."""

    prompt: str
    """``"typical_box"`` or ``"image_centre"``, see `normal_prompts`."""
    lesion_prompt: str
    """The protocol whose scores on lesions it is compared with."""
    images: int
    """Number of images without a lesion."""
    lesions: int
    """Number of lesions that they are compared with."""
    marked_fraction: float
    """Share of the images with a non-empty mask, 0..1."""
    mean_area_fraction: float
    """Mean share of the image's area that is marked, 0..1, empty masks included."""
    mean_iou_prediction: float
    """Mean of the model's own IoU estimates on the images without a lesion."""
    mean_iou_prediction_lesions: float
    """Mean of the model's own IoU estimates on the lesions."""
    iou_prediction_auc: float
    """How well the estimate tells them apart, see `area_under_curve`."""


@dataclass(frozen=True)
class SeparatedCases:
    """Cases with and without a lesion."""

    lesions: list[UltrasoundCase]
    normals: list[UltrasoundCase]
    typical_box_wh: tuple[float, float]
    """Median width and height of the lesions' boxes, as fractions of the image's."""


def separate_normals(cases: Sequence[UltrasoundCase]) -> SeparatedCases:
    """Read the masks of cases to find those without a lesion.

    Raises:
        DataError: if no case has a lesion, or if files are missing or broken.
    """
    lesions: list[UltrasoundCase] = []
    normals: list[UltrasoundCase] = []
    boxes_wh: list[npt.NDArray[np.float64]] = []
    for case in cases:
        masks = read_instances(case)
        (lesions if masks else normals).append(case)
        for mask in masks:
            box = mask_box(mask)
            boxes_wh.append((box[2:] - box[:2] + 1.0) / np.array(mask.shape[::-1], np.float64))
    if not lesions:
        raise DataError(
            f"None of the {len(cases)} cases has a lesion, so there is nothing to evaluate."
        )
    width, height = np.median(boxes_wh, axis=0).tolist()
    return SeparatedCases(lesions, normals, (width, height))


def normal_prompts(
    original_hw: tuple[int, int], typical_box_wh: tuple[float, float]
) -> dict[str, Prompt]:
    """What an image without a lesion is prompted with.

    Args:
        original_hw: (H, W) of the image, pixels.
        typical_box_wh: width and height of the box as fractions of the image's, 0..1.

    Returns:
        ``"typical_box"``: a box of that size in the middle of the image; ``"image_centre"``: one
        foreground point there.
    """
    height, width = original_hw
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    # one pixel at least: a box without area is no prompt
    half = np.maximum(np.array(typical_box_wh) * (width, height) - 1.0, 1.0) / 2
    box = np.concatenate([centre - half, centre + half]).astype(np.float32)
    return {
        "typical_box": Prompt(box=box),
        "image_centre": Prompt(points=centre[None].astype(np.float32)),
    }


def evaluate_normals(
    predictor: Predictor[Embedding],
    separated: SeparatedCases,
    scores: Sequence[InstanceScore],
    *,
    on_case: Callable[[UltrasoundCase], None] | None = None,
) -> tuple[NormalsSummary, ...]:
    """Prompt images without a lesion, and compare with the lesions.

    Args:
        predictor: the segmenter.
        separated: the images, from `separate_normals`.
        scores: scores of the same predictor on lesions, with the standard protocols.
        on_case: called after each case, for progress.

    Returns:
        One summary per kind of prompt; none if there are no images.

    Raises:
        DataError: if a file is missing or broken.
    """
    areas: dict[str, list[float]] = {name: [] for name in LESION_PROMPTS}
    ious: dict[str, list[float]] = {name: [] for name in LESION_PROMPTS}
    for case in separated.normals:
        image = read_image(case)
        embedding = predictor.encode(image)
        prompts = normal_prompts((image.shape[0], image.shape[1]), separated.typical_box_wh)
        for name, prompt in prompts.items():
            predicted = predict_prompts(predictor, embedding, [prompt])
            areas[name].append(float(predicted.masks[0, 0].mean()))
            ious[name].append(float(predicted.iou_predictions[0, 0]))
        if on_case is not None:
            on_case(case)
    if not separated.normals:
        return ()
    summaries = []
    for name, lesion_prompt in LESION_PROMPTS.items():
        on_lesions = [
            score.iou_prediction
            for score in scores
            if score.image == AS_IS and score.prompt == lesion_prompt
        ]
        summaries.append(
            NormalsSummary(
                prompt=name,
                lesion_prompt=lesion_prompt,
                images=len(ious[name]),
                lesions=len(on_lesions),
                marked_fraction=float(np.mean(np.array(areas[name]) > 0)),
                mean_area_fraction=float(np.mean(areas[name])),
                mean_iou_prediction=float(np.mean(ious[name])),
                mean_iou_prediction_lesions=float(np.mean(on_lesions)),
                iou_prediction_auc=area_under_curve(on_lesions, ious[name]),
            )
        )
    return tuple(summaries)


def area_under_curve(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> float:
    """Area under the ROC curve of a number that should be higher for positives.

    Args:
        positives: (P,) the number for each positive, at least one.
        negatives: (N,) the number for each negative, at least one.

    Returns:
        Probability that a random positive has the higher number, ties counted half: 0..1; 0.5 tells
        nothing apart. (The Mann-Whitney statistic over P N.)
    """
    ordered = np.sort(np.asarray(negatives, dtype=np.float64))
    values = np.asarray(positives, dtype=np.float64)
    below = np.searchsorted(ordered, values, side="left")
    not_above = np.searchsorted(ordered, values, side="right")
    return float((below + not_above).mean() / (2 * len(ordered)))
