"""The robustness table: Dice as prompts and images get worse than the standard protocols assume.

Each change is compared with a reference, lesion by lesion: boxes with the exact box, points with the
centre point, perturbed images with the same prompt on the image as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from samus_edge.evaluation.group_bootstrap import bootstrap_interval
from samus_edge.evaluation.image_perturbation import (
    FrameSize,
    Gain,
    Gamma,
    GaussianNoise,
    ImagePerturbation,
    Speckle,
    StoredSmaller,
)
from samus_edge.evaluation.instance_score import AS_IS, InstanceScore
from samus_edge.evaluation.prompt_protocol import (
    BOX_JITTERS,
    CENTRE_POINT,
    JITTERED_BOX,
    STANDARD_PROTOCOLS,
    BoxProtocol,
    PromptProtocol,
)
from samus_edge.evaluation.robustness_prompts import (
    BOX_MARGINS,
    POINT_OFFSETS,
    BoxAndPointProtocol,
    MarginBoxProtocol,
    OffsetPointProtocol,
)
from samus_edge.evaluation.summary import Spread, spread
from samus_edge.evaluation.variant import Variant, merge_variants

__all__ = [
    "LOW_DICE",
    "RobustnessCheck",
    "RobustnessRow",
    "robustness_checks",
    "robustness_table",
    "robustness_variants",
]

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
    checks = [
        RobustnessCheck("box jitter", _percent(jitter), BoxProtocol(jitter), EXACT_BOX)
        for jitter in BOX_JITTERS
    ]
    for change, sign in (("loose box", 1.0), ("tight box", -1.0)):
        checks.append(RobustnessCheck(change, _percent(0.0), EXACT_BOX, EXACT_BOX))
        checks += [
            RobustnessCheck(change, _percent(margin), MarginBoxProtocol(sign * margin), EXACT_BOX)
            for margin in BOX_MARGINS
        ]
    checks.append(RobustnessCheck("point off centre", _percent(0.0), CENTRE_POINT, CENTRE_POINT))
    checks += [
        RobustnessCheck(
            "point off centre", _percent(offset), OffsetPointProtocol(offset), CENTRE_POINT
        )
        for offset in POINT_OFFSETS
    ]
    checks += [
        RobustnessCheck("box and point", "box", JITTERED_BOX, JITTERED_BOX),
        RobustnessCheck("box and point", "box + point", BoxAndPointProtocol(), JITTERED_BOX),
    ]
    for change, levels in _image_changes().items():
        for protocol in STANDARD_PROTOCOLS:
            checks += [
                RobustnessCheck(change, level, protocol, protocol, perturbation)
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
        scores: Scores of an evaluation with `robustness_variants`, of the same lesions throughout.
        seed: Seed of the bootstrap; each line starts from it anew.

    Returns:
        One row per `robustness_checks`.

    Raises:
        ValueError: If the scores of a line are missing.
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
            raise ValueError(
                f"scores lack {', '.join(missing)}. Evaluate with variants=robustness_variants()."
            )
        rows.append(_row(check, by_line[line], by_line[reference], seed))
    return tuple(rows)


def _row(
    check: RobustnessCheck,
    scores: Sequence[InstanceScore],
    references: Sequence[InstanceScore],
    seed: int,
) -> RobustnessRow:
    dices = np.array([score.dice for score in scores])
    reference_of = {(score.key, score.instance): score.dice for score in references}
    changes = dices - np.array([reference_of[score.key, score.instance] for score in scores])
    groups = [score.group for score in scores]
    return RobustnessRow(
        change=check.change,
        level=check.level,
        image=scores[0].image,
        prompt=scores[0].prompt,
        reference=references[0].prompt,
        lesions=len(scores),
        dice=spread(dices.tolist(), min),
        dice_interval=bootstrap_interval(dices, groups, np.random.default_rng(seed)),
        dice_change=float(changes.mean()),
        dice_change_interval=bootstrap_interval(changes, groups, np.random.default_rng(seed)),
        low_dice_lesions=int((dices < LOW_DICE).sum()),
    )


def _image_changes() -> dict[str, dict[str, ImagePerturbation | None]]:
    """Perturbations by change and level, weakest and "as is" where they belong on a scale."""
    gains: dict[str, ImagePerturbation | None] = {f"x{gain:g}": Gain(gain) for gain in GAINS[:2]}
    gains[AS_IS_LEVEL] = None
    gains |= {f"x{gain:g}": Gain(gain) for gain in GAINS[2:]}
    gammas: dict[str, ImagePerturbation | None] = {f"{g:g}": Gamma(g) for g in GAMMAS[:2]}
    gammas[AS_IS_LEVEL] = None
    gammas |= {f"{g:g}": Gamma(g) for g in GAMMAS[2:]}
    return {
        "gain": gains,
        "gamma": gammas,
        "speckle": {AS_IS_LEVEL: None, **{f"{s:g}": Speckle(s) for s in SPECKLE_SIGMAS}},
        "noise": {AS_IS_LEVEL: None, **{f"{s:g}": GaussianNoise(s) for s in NOISE_SIGMAS}},
        "stored smaller": {
            AS_IS_LEVEL: None,
            **{f"{s:g}": StoredSmaller(s) for s in STORED_SCALES},
        },
        "frame size": {
            AS_IS_LEVEL: None,
            **{f"{w}x{h}": FrameSize(w, h) for w, h in FRAME_SIZES_WH},
        },
    }


def _percent(fraction: float) -> str:
    return f"{fraction * 100:g} %"
