"""The lesions that came out worst, beside the median and the best, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.data.prompt_protocol import PromptProtocol, case_generator
from samus_edge.evaluation.predictor import Embedding, Predictor, predict_prompts
from samus_edge.evaluation.summary import AS_IS, InstanceScore
from samus_edge.runtime.images.canvas import Canvas
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay

__all__ = [
    "MEDIAN_ROLE",
    "CaseView",
    "RankedScore",
    "draw_case_views",
    "rank_cases",
    "worst_scores",
]

MEDIAN_ROLE: Final = "median"
BEST_ROLE: Final = "best"


@dataclass(frozen=True)
class RankedScore:
    """A lesion's score with its place among all lesions of the same prompt."""

    role: str
    """``"worst 1"``, ``"worst 2"``, ..., ``"median"`` or ``"best"``."""
    score: InstanceScore


@dataclass(frozen=True, eq=False)
class CaseView:
    """A picture of a lesion's truth, prompt and prediction.

    Attributes:
        ranked: its score and place.
        picture: (h, w, 3), uint8, RGB; see `samus_edge.runtime.images.overlay.draw_overlay`.
    """

    ranked: RankedScore
    picture: Canvas


def worst_scores(
    scores: Sequence[InstanceScore], prompt: str, count: int
) -> tuple[InstanceScore, ...]:
    """The scores of a prompt with the lowest Dice on the images as they are, lowest first."""
    return _sorted_scores(scores, prompt)[:count]


def rank_cases(
    scores: Sequence[InstanceScore], prompt: str, worst_count: int
) -> tuple[RankedScore, ...]:
    """The worst, the median and the best score of a prompt on the images as they are.

    Args:
        scores: of any number of prompts.
        prompt: name of the protocol.
        worst_count: how many of the worst; at least 0.

    Returns:
        The worst, lowest Dice first, then the median and the best as far as they are others.
    """
    ordered = _sorted_scores(scores, prompt)
    ranked = {index: f"worst {index + 1}" for index in range(min(worst_count, len(ordered)))}
    if ordered:
        ranked.setdefault(len(ordered) // 2, MEDIAN_ROLE)
        ranked.setdefault(len(ordered) - 1, BEST_ROLE)
    return tuple(RankedScore(role, ordered[index]) for index, role in ranked.items())


def draw_case_views(
    predictor: Predictor[Embedding],
    cases: Sequence[UltrasoundCase],
    scores: Sequence[InstanceScore],
    protocols: Sequence[PromptProtocol],
    *,
    worst_count: int,
    seed: int,
) -> tuple[CaseView, ...]:
    """Segment the ranked lesions of each protocol again, and draw them.

    Args:
        predictor: what gave the scores.
        cases: the cases that were evaluated.
        scores: their scores.
        protocols: kinds of prompt to show.
        worst_count: how many of the worst of each.
        seed: of the evaluation, so that the prompts are the same.

    Raises:
        DataError: if a file is missing or broken.
    """
    by_key = {case.key: case for case in cases}
    return tuple(
        CaseView(ranked, _draw(predictor, by_key[ranked.score.key], ranked.score, protocol, seed))
        for protocol in protocols
        for ranked in rank_cases(scores, protocol.name, worst_count)
    )


def _sorted_scores(scores: Sequence[InstanceScore], prompt: str) -> tuple[InstanceScore, ...]:
    of_prompt = [score for score in scores if score.prompt == prompt and score.image == AS_IS]
    return tuple(sorted(of_prompt, key=lambda score: score.dice))


def _draw(
    predictor: Predictor[Embedding],
    case: UltrasoundCase,
    score: InstanceScore,
    protocol: PromptProtocol,
    seed: int,
) -> Canvas:
    image = read_image(case)
    truth = read_instances(case)[score.instance]
    prompt = protocol.prompt(truth, case_generator(case.key, score.instance, seed))
    predicted = predict_prompts(predictor, predictor.encode(image), [prompt])
    box = None
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box.tolist()
        box = (x1, y1, x2, y2)
    caption = f"prediction, Dice {score.dice:.3f}, predicted IoU {score.iou_prediction:.2f}"
    items = [
        OverlayItem(truth, "truth"),
        OverlayItem(
            predicted.masks[0, 0], caption, box, [(x, y, 1) for x, y in prompt.points.tolist()]
        ),
    ]
    return draw_overlay(image, items)
