"""The lesions that came out worst, beside the median and the best, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.data.prompt_protocol import Prompt, PromptProtocol, case_generator
from samus_edge.evaluation.metrics import Mask
from samus_edge.evaluation.predictor import Embedding, Predictor, predict_prompts
from samus_edge.evaluation.summary import AS_IS, InstanceScore
from samus_edge.runtime.images.canvas import Canvas
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay


@dataclass(frozen=True, eq=False)
class CaseView:
    """A picture of a lesion's truth, prompt and prediction.

    Attributes:
        role: "worst 1", "worst 2", ..., "median" or "best" among all lesions of the same prompt.
        score: its score.
        picture: (h, w, 3), uint8, RGB; see `samus_edge.runtime.images.overlay.draw_overlay`.
    """

    role: str
    score: InstanceScore
    picture: Canvas


def worst_scores(
    scores: Sequence[InstanceScore], prompt: str, count: int
) -> tuple[InstanceScore, ...]:
    """The scores of a prompt with the lowest Dice on the images as they are, lowest first."""
    of_prompt = [score for score in scores if score.prompt == prompt and score.image == AS_IS]
    return tuple(sorted(of_prompt, key=lambda score: score.dice)[:count])


def rank_cases(
    scores: Sequence[InstanceScore], prompt: str, worst_count: int
) -> dict[str, InstanceScore]:
    """The worst, the median and the best score of a prompt on the images as they are.

    Args:
        scores: scores of any number of prompts.
        prompt: name of the protocol.
        worst_count: how many of the worst; at least 0.

    Returns:
        Scores by their role (see `CaseView`): the worst, lowest Dice first, then the median and the
        best as far as they are others.
    """
    ordered = worst_scores(scores, prompt, len(scores))
    roles = {index: f"worst {index + 1}" for index in range(min(worst_count, len(ordered)))}
    if ordered:
        roles.setdefault(len(ordered) // 2, "median")
        roles.setdefault(len(ordered) - 1, "best")
    return {role: ordered[index] for index, role in roles.items()}


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
        predictor: the segmenter that gave the scores.
        cases: the cases that were evaluated.
        scores: their scores.
        protocols: kinds of prompt to show.
        worst_count: how many of the worst of each.
        seed: seed of the evaluation, so that the prompts are the same.

    Raises:
        DataError: if a file is missing or broken.
    """
    by_key = {case.key: case for case in cases}
    views = []
    for protocol in protocols:
        for role, score in rank_cases(scores, protocol.name, worst_count).items():
            case = by_key[score.key]
            image, truth = read_image(case), read_instances(case)[score.instance]
            prompt = protocol.prompt(truth, case_generator(case.key, score.instance, seed))
            predicted = predict_prompts(predictor, predictor.encode(image), [prompt])
            caption = f"prediction, Dice {score.dice:.3f}, predicted IoU {score.iou_prediction:.2f}"
            drawn = prompted_item(predicted.masks[0, 0], caption, prompt)
            picture = draw_overlay(image, [OverlayItem(truth, "truth"), drawn])
            views.append(CaseView(role, score, picture))
    return tuple(views)


def prompted_item(
    mask: Mask, caption: str, prompt: Prompt, origin_xy: tuple[int, int] = (0, 0)
) -> OverlayItem:
    """A mask with its prompt, to be drawn on the part of an image that begins at a pixel."""
    origin = np.array(origin_xy, np.float32)
    box = None
    if prompt.box is not None:
        x1, y1, x2, y2 = (prompt.box.reshape(2, 2) - origin).ravel().tolist()
        box = (x1, y1, x2, y2)
    points = [(x, y, 1) for x, y in (prompt.points - origin).tolist()]
    return OverlayItem(mask, caption, box, points)
