"""The robustness table: Dice as prompts and images get worse than the standard protocols assume.

Each change is compared with a reference, lesion by lesion: boxes with the exact box, points with
the centre point, perturbed images with the same prompt on the image as it is. Coordinates are
pixels of the original image, (x, y), pixel centres at integers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.prompt_protocol import (
    BOX_JITTERS,
    CENTRE_POINT,
    JITTERED_BOX,
    STANDARD_PROTOCOLS,
    BoxProtocol,
    Prompt,
    PromptProtocol,
    centre_point,
    jittered_box,
    mask_box,
    ordered_edges,
)
from samus_edge.errors import BadArgumentError
from samus_edge.evaluation.image_perturbation import (
    ImagePerturbation,
    frame_size,
    gain,
    gamma,
    gaussian_noise,
    speckle,
    stored_smaller,
)
from samus_edge.evaluation.paired_comparison import bootstrap_interval
from samus_edge.evaluation.summary import (
    AS_IS,
    InstanceScore,
    Spread,
    Variant,
    merge_variants,
    spread,
)

Mask = npt.NDArray[np.bool_]

BOX_MARGINS: Final = (0.05, 0.10, 0.15, 0.20)
"""How much too loose, or too tight, the boxes of the robustness table are."""

POINT_OFFSETS: Final = (0.10, 0.20, 0.30)
"""How far off the centre the points of the robustness table are."""


@dataclass(frozen=True)
class MarginBoxProtocol:
    """Prompt with the lesion's box, every edge too far out, or every edge too far in."""

    margin: float
    """Movement of each edge outwards, as a fraction of the box's width (left and right edge) or
    height, counted in pixels (x2 - x1 + 1); negative inwards. Above -0.5, at most 1, not 0. At 0.15
    the box is 1.3 times as wide and as high as the lesion."""

    def __post_init__(self) -> None:
        """Check the margin."""
        if not -0.5 < self.margin <= 1.0 or self.margin == 0.0:
            raise BadArgumentError(
                f"margin must be above -0.5, at most 1 and not 0, got {self.margin}. "
                "The exact box is BoxProtocol(jitter=0.0)."
            )

    @property
    def name(self) -> str:
        """Name in reports, such as ``"box_loose_15%"`` or ``"box_tight_15%"``."""
        kind = "loose" if self.margin > 0 else "tight"
        return f"box_{kind}_{abs(self.margin) * 100:g}%"

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The box, inside the image: what sticks out is cut off, so the box of a lesion at the
        border is looser on the other sides only. Draws nothing."""
        x1, y1, x2, y2 = mask_box(mask).astype(np.float64)
        dx, dy = self.margin * (x2 - x1 + 1.0), self.margin * (y2 - y1 + 1.0)
        left, right = ordered_edges(x1 - dx, x2 + dx, mask.shape[1] - 1.0)
        top, bottom = ordered_edges(y1 - dy, y2 + dy, mask.shape[0] - 1.0)
        return Prompt(box=np.array([left, top, right, bottom], dtype=np.float32))


@dataclass(frozen=True)
class OffsetPointProtocol:
    """Prompt with one foreground point beside the lesion's centre, in a random direction.

    It lies on an ellipse around `centre_point`. If the pixel that it falls in does not belong to
    the mask, it is the centre of the nearest mask pixel instead (the first in reading order among
    equals): a user who misses the centre still clicks on the lesion.
    """

    offset: float
    """Half axes of the ellipse as a fraction of the lesion's width and height (of its box, in
    pixels); above 0, below 1. 0.5 would be the outline of an elliptic lesion."""

    def __post_init__(self) -> None:
        """Check the offset."""
        if not 0.0 < self.offset < 1.0:
            raise BadArgumentError(f"offset must be above 0 and below 1, got {self.offset}.")

    @property
    def name(self) -> str:
        """Name in reports, such as ``"point_off_20%"``."""
        return f"point_off_{self.offset * 100:g}%"

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The point; one number, the direction, is drawn."""
        box = mask_box(mask).astype(np.float64)
        angle = rng.uniform(0.0, 2.0 * math.pi)
        half_axes = self.offset * (box[2:] - box[:2] + 1.0)  # (2,)
        direction = np.array([math.cos(angle), math.sin(angle)])
        x, y = centre_point(mask).astype(np.float64) + half_axes * direction
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
        if not (inside and mask[row, column]):
            rows, columns = np.nonzero(mask)
            nearest = int(np.argmin((columns - x) ** 2 + (rows - y) ** 2))
            x, y = columns[nearest], rows[nearest]
        return Prompt(points=np.array([[x, y]], dtype=np.float32))


@dataclass(frozen=True)
class BoxAndPointProtocol:
    """Prompt with the standard jittered box and the centre point together."""

    @property
    def name(self) -> str:
        """Name in reports."""
        return f"{JITTERED_BOX.name}+centre_point"

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The same box as the standard box protocol gives, and the same point."""
        box = jittered_box(mask, JITTERED_BOX.jitter, rng)
        return Prompt(box=box, points=centre_point(mask)[None])


LOW_DICE: Final = 0.6
"""Lesions below this Dice are counted: segmentations that a user would have to redraw."""

EXACT_BOX: Final = BoxProtocol(0.0)
AS_IS_LEVEL: Final = "as is"

GAINS: Final = (0.5, 0.7, 1.4, 2.0)
GAMMAS: Final = (0.5, 0.7, 1.4, 2.0)
SPECKLE_SIGMAS: Final = (0.1, 0.2, 0.4)
NOISE_SIGMAS: Final = (5.0, 10.0, 20.0)
STORED_SCALES: Final = (0.5, 0.35, 0.25)
FRAME_SIZES_WH: Final = ((128, 128), (256, 192), (320, 240), (640, 480), (800, 600), (1024, 768))


@dataclass(frozen=True)
class RobustnessCheck:
    """One line of the table, before it is measured."""

    change: str
    """What is changed; lines with the same change belong together."""
    level: str
    """How much."""
    protocol: PromptProtocol
    reference: PromptProtocol
    """Kind of prompt, on the image as it is, that the line is compared with."""
    perturbation: ImagePerturbation | None = None


@dataclass(frozen=True)
class RobustnessRow:
    """One line of the table."""

    change: str
    """What is changed, such as ``"loose box"``."""
    level: str
    """How much, such as ``"15 %"``."""
    image: str
    """``"as_is"``, or the name of the image perturbation."""
    prompt: str
    """Name of the prompt protocol."""
    reference: str
    """Name of the prompt protocol, on the image as it is, that it is compared with."""
    lesions: int
    """Number of lesions."""
    dice: Spread
    dice_interval: tuple[float, float]
    """95 % interval of the mean Dice; whole groups are resampled, see `bootstrap_interval`."""
    dice_change: float
    """Mean difference to the reference on the same lesions; negative is worse."""
    dice_change_interval: tuple[float, float]
    """95 % interval of that difference."""
    low_dice_lesions: int
    """Number of lesions with a Dice below ``LOW_DICE``."""


def robustness_checks() -> tuple[RobustnessCheck, ...]:
    """The lines of the table in the order in which they are reported."""
    boxes: dict[str, dict[float, PromptProtocol]] = {
        "box jitter": {jitter: BoxProtocol(jitter) for jitter in BOX_JITTERS},
        "loose box": {0.0: EXACT_BOX, **{m: MarginBoxProtocol(m) for m in BOX_MARGINS}},
        "tight box": {0.0: EXACT_BOX, **{m: MarginBoxProtocol(-m) for m in BOX_MARGINS}},
    }
    points: dict[float, PromptProtocol] = {
        0.0: CENTRE_POINT,
        **{offset: OffsetPointProtocol(offset) for offset in POINT_OFFSETS},
    }
    checks = [
        RobustnessCheck(change, f"{level * 100:g} %", protocol, EXACT_BOX)
        for change, levels in boxes.items()
        for level, protocol in levels.items()
    ]
    checks += [
        RobustnessCheck("point off centre", f"{level * 100:g} %", protocol, CENTRE_POINT)
        for level, protocol in points.items()
    ]
    checks += [
        RobustnessCheck("box and point", "box", JITTERED_BOX, JITTERED_BOX),
        RobustnessCheck("box and point", "box + point", BoxAndPointProtocol(), JITTERED_BOX),
    ]
    checks += [
        RobustnessCheck(change, level, protocol, protocol, perturbation)
        for change, levels in _image_changes().items()
        for protocol in STANDARD_PROTOCOLS
        for level, perturbation in levels.items()
    ]
    return tuple(checks)


def robustness_variants() -> tuple[Variant, ...]:
    """What `evaluate` has to score for the table."""
    checks = robustness_checks()
    wanted = [Variant((check.reference,)) for check in checks]
    wanted += [Variant((check.protocol,), check.perturbation) for check in checks]
    return tuple(merge_variants(wanted))


def robustness_table(scores: Sequence[InstanceScore], seed: int) -> tuple[RobustnessRow, ...]:
    """Make the table from scores.

    Args:
        scores: scores of an evaluation with `robustness_variants`, of the same lesions throughout.
        seed: seed of the bootstrap; each line starts from it anew.

    Returns:
        One row per `robustness_checks`.

    Raises:
        BadArgumentError: if the scores of a line are missing.
    """
    by_line: dict[tuple[str, str], list[InstanceScore]] = {}
    for score in scores:
        by_line.setdefault((score.image, score.prompt), []).append(score)
    rows = []
    for check in robustness_checks():
        image = Variant((check.protocol,), check.perturbation).image
        line, reference = (image, check.protocol.name), (AS_IS, check.reference.name)
        missing = [" on ".join(name[::-1]) for name in (line, reference) if name not in by_line]
        if missing:
            raise BadArgumentError(
                f"scores lack {', '.join(missing)}. Evaluate with variants=robustness_variants()."
            )
        own = by_line[line]
        dices = np.array([score.dice for score in own])
        reference_of = {(each.key, each.instance): each.dice for each in by_line[reference]}
        changes = dices - np.array([reference_of[each.key, each.instance] for each in own])
        groups = [score.group for score in own]
        row = RobustnessRow(
            change=check.change,
            level=check.level,
            image=image,
            prompt=check.protocol.name,
            reference=check.reference.name,
            lesions=len(own),
            dice=spread(dices.tolist(), min),
            dice_interval=bootstrap_interval(dices, groups, np.random.default_rng(seed)),
            dice_change=float(changes.mean()),
            dice_change_interval=bootstrap_interval(changes, groups, np.random.default_rng(seed)),
            low_dice_lesions=int((dices < LOW_DICE).sum()),
        )
        rows.append(row)
    return tuple(rows)


def _image_changes() -> dict[str, dict[str, ImagePerturbation | None]]:
    """Perturbations by change and level, weakest and "as is" where they belong on a scale."""
    sizes = {f"{width}x{height}": frame_size(width, height) for width, height in FRAME_SIZES_WH}
    return {
        "gain": _levels(gain, GAINS, "x{:g}", as_is_at=2),
        "gamma": _levels(gamma, GAMMAS, as_is_at=2),
        "speckle": _levels(speckle, SPECKLE_SIGMAS),
        "noise": _levels(gaussian_noise, NOISE_SIGMAS),
        "stored smaller": _levels(stored_smaller, STORED_SCALES),
        "frame size": {AS_IS_LEVEL: None, **sizes},
    }


def _levels(
    make: Callable[[float], ImagePerturbation],
    strengths: Sequence[float],
    name: str = "{:g}",
    as_is_at: int = 0,
) -> dict[str, ImagePerturbation | None]:
    levels: list[tuple[str, ImagePerturbation | None]] = [
        (name.format(strength), make(strength)) for strength in strengths
    ]
    levels.insert(as_is_at, (AS_IS_LEVEL, None))
    return dict(levels)
