"""Scores summed up by prompt, class and lesion size.

How large a lesion is on the image that the model sees, in three classes.

| class | equivalent diameter at 256x256 | share of the image's area |
| --- | --- | --- |
| small | below 50 px | below 3.0 % |
| medium | 50 to below 85 px | 3.0 % to below 8.7 % |
| large | 85 px and more | 8.7 % and more |

The limits are close to the terciles of BUSI's lesions. Being shares of the image, not millimetres,
they say how much of the picture a lesion takes, which is what makes it easy or hard for a model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.prompt_protocol import PromptProtocol
from samus_edge.evaluation.image_perturbation import ImagePerturbation
from samus_edge.evaluation.paired_comparison import bootstrap_interval

AS_IS: Final = "as_is"
"""Name of the image that is not perturbed."""


@dataclass(frozen=True)
class InstanceScore:
    """How well one lesion was segmented from one prompt."""

    key: str
    """Case key, such as ``"benign/benign (104)"``."""
    class_name: str
    """Class of the image."""
    instance: int
    """Number of the lesion in its image, from 0."""
    group: str
    """Images that share it are near-duplicates, or the same image."""
    size: str
    """``"small"``, ``"medium"`` or ``"large"``; see `samus_edge.evaluation.summary`."""
    diameter_px: float
    """Diameter of the circle with the lesion's area at 256x256, pixels."""
    image: str
    """``"as_is"``, or the name of the image perturbation."""
    prompt: str
    """Name of the prompt protocol."""
    prompt_coords: str
    """The prompt in pixels of the image that was encoded: ``"x1 y1 x2 y2"``, ``"x y"``, or both."""
    height: int
    width: int
    """Size of the original image, pixels."""
    dice: float
    """Dice at the image's own size, 0..1."""
    iou: float
    """IoU at the image's own size, 0..1."""
    nsd: float
    """Normalised surface Dice at 256x256 with a tolerance of 2 pixels, 0..1."""
    hd: float
    """Euclidean Hausdorff distance at 256x256, pixels."""
    hd_manhattan: float
    """Manhattan Hausdorff distance at 256x256, pixels."""
    hd95: float
    """95th-percentile Hausdorff distance of the outlines at 256x256, pixels."""
    hd_rows: float
    """The row distance that SAMUS's reference reports as Hausdorff distance, at 256x256, pixels."""
    iou_prediction: float
    """The model's own estimate of the IoU; not clipped."""


@dataclass(frozen=True)
class Variant:
    """Prompts that are given on the images as they are, or on perturbed images."""

    protocols: tuple[PromptProtocol, ...]
    perturbation: ImagePerturbation | None = None

    @property
    def image(self) -> str:
        """Name of the images in reports."""
        return AS_IS if self.perturbation is None else self.perturbation.name


def merge_variants(variants: Sequence[Variant]) -> list[Variant]:
    """One variant per image with each protocol once, so that all prompts share one encoding."""
    perturbations = {variant.image: variant.perturbation for variant in variants}
    protocols: dict[str, dict[str, PromptProtocol]] = {image: {} for image in perturbations}
    for variant in variants:
        for protocol in variant.protocols:
            protocols[variant.image].setdefault(protocol.name, protocol)
    return [
        Variant(tuple(protocols[image].values()), perturbation)
        for image, perturbation in perturbations.items()
    ]


LESION_SIZES: Final = ("small", "medium", "large")
"""The classes, ascending."""

MEDIUM_FROM_PX: Final = 50.0
LARGE_FROM_PX: Final = 85.0
FRAME_AREA_PX: Final = 256 * 256


def equivalent_diameter_px(mask: npt.NDArray[np.bool_]) -> float:
    """Diameter of the circle with the lesion's area, once the image is resized to 256x256.

    Args:
        mask: (H, W), bool, at the image's own size.

    Returns:
        sqrt(4 A / pi), with A the mask's share of the image times 256 x 256; pixels.
    """
    return math.sqrt(4.0 * float(mask.mean()) * FRAME_AREA_PX / math.pi)


def lesion_size(diameter_px: float) -> str:
    """Class of an equivalent diameter at 256x256: one of ``LESION_SIZES``."""
    if diameter_px < MEDIUM_FROM_PX:
        return "small"
    return "medium" if diameter_px < LARGE_FROM_PX else "large"


ALL_CLASSES: Final = "all"
"""Class name of a summary over every class."""

ALL_SIZES: Final = "all"
"""Size of a summary over every lesion size."""


@dataclass(frozen=True)
class Spread:
    """A metric over many lesions."""

    mean: float
    median: float
    worst: float
    """The lowest overlap, or the largest distance."""


@dataclass(frozen=True)
class Summary:
    """The scores of one prompt protocol on one class or one lesion size, or on all."""

    prompt: str
    class_name: str
    """A class, or ``"all"``."""
    size: str
    """One of ``LESION_SIZES``, or ``"all"``; see `samus_edge.evaluation.summary`."""
    images: int
    """Number of images."""
    lesions: int
    """Number of lesions; every mean is over these."""
    dice: Spread
    dice_interval: tuple[float, float]
    """95 % interval of the mean Dice; whole groups are resampled, see `bootstrap_interval`."""
    dice_worst_key: str
    """Case with the lowest Dice."""
    iou: Spread
    nsd: Spread
    hd: Spread
    hd_manhattan: Spread
    hd95: Spread
    hd_rows: Spread

    @property
    def group(self) -> str:
        """The class or the lesion size that it is of, or "all"."""
        return self.class_name if self.size == ALL_SIZES else self.size


def summarise(scores: Sequence[InstanceScore], seed: int) -> tuple[Summary, ...]:
    """Summarise the scores of each prompt protocol: all together, by class, by lesion size.

    Args:
        scores: scores of any number of protocols and classes.
        seed: seed of the bootstrap; each summary starts from it anew.

    Returns:
        Summaries, protocols in order of appearance; in each first that over everything, then the
        classes in alphabetical order, then the sizes from small to large. What holds no lesion has
        no summary.
    """
    summaries = []
    for prompt in dict.fromkeys(score.prompt for score in scores):
        of_prompt = [score for score in scores if score.prompt == prompt]
        summaries.append(_summary(of_prompt, ALL_CLASSES, ALL_SIZES, seed))
        for class_name in sorted({score.class_name for score in of_prompt}):
            of_class = [score for score in of_prompt if score.class_name == class_name]
            summaries.append(_summary(of_class, class_name, ALL_SIZES, seed))
        for size in LESION_SIZES:
            of_size = [score for score in of_prompt if score.size == size]
            if of_size:
                summaries.append(_summary(of_size, ALL_CLASSES, size, seed))
    return tuple(summaries)


def spread(values: Sequence[float], worst: Callable[[Sequence[float]], float]) -> Spread:
    """Mean, median and worst of at least one value; ``worst`` is `min` or `max`."""
    return Spread(float(np.mean(values)), float(np.median(values)), worst(values))


_WORST: Final[dict[str, Callable[[Sequence[float]], float]]] = {
    **dict.fromkeys(("iou", "nsd"), min),
    **dict.fromkeys(("hd", "hd_manhattan", "hd95", "hd_rows"), max),
}


def _summary(scores: Sequence[InstanceScore], class_name: str, size: str, seed: int) -> Summary:
    return Summary(
        prompt=scores[0].prompt,
        class_name=class_name,
        size=size,
        images=len({score.key for score in scores}),
        lesions=len(scores),
        dice=spread([score.dice for score in scores], min),
        dice_interval=bootstrap_interval(
            [score.dice for score in scores],
            [score.group for score in scores],
            np.random.default_rng(seed),
        ),
        dice_worst_key=min(scores, key=lambda score: score.dice).key,
        **{
            name: spread([getattr(score, name) for score in scores], worst)
            for name, worst in _WORST.items()
        },
    )
