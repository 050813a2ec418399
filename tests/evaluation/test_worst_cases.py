"""Which lesions are shown, and how."""

from pathlib import Path
from typing import Any

import numpy as np

from samus_edge.data.case import select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.data.prompt_protocol import JITTERED_BOX, STANDARD_PROTOCOLS
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.image_perturbation import gain
from samus_edge.evaluation.summary import Variant
from samus_edge.evaluation.worst_cases import draw_case_views, rank_cases, worst_scores


def test_lesions_are_ranked_by_dice(fake_busi: Path, box_filler: Any) -> None:
    cases = select_lesions(list_cases(fake_busi))
    scores = evaluate(box_filler, cases, variants=[Variant((JITTERED_BOX,), gain(2.0))]).scores
    dices = sorted(s.dice for s in scores if s.prompt == "box_5%" and s.image == "as_is")
    assert [score.dice for score in worst_scores(scores, "box_5%", 2)] == dices[:2]
    ranked = rank_cases(scores, "box_5%", 2)
    assert {role: score.dice for role, score in ranked.items()} == {
        "worst 1": dices[0],
        "worst 2": dices[1],
        "median": dices[3],
        "best": dices[5],
    }
    assert len(worst_scores(scores, "box_5%", 100)) == 6


def test_a_lesion_is_shown_once(fake_busi: Path, box_filler: Any) -> None:
    scores = evaluate(box_filler, list_cases(fake_busi, ["benign/benign (1)"])).scores
    assert list(rank_cases(scores, "box_5%", 3)) == ["worst 1"]
    assert list(rank_cases(scores, "box_5%", 0)) == ["median"]
    assert rank_cases(scores, "no such prompt", 3) == {}


def test_pictures_show_the_prompts_that_were_scored(fake_busi: Path, box_filler: Any) -> None:
    cases = select_lesions(list_cases(fake_busi))
    scores = evaluate(box_filler, cases, seed=3).scores
    evaluated = [boxes.copy() for boxes in box_filler.boxes]
    box_filler.boxes.clear()
    views = draw_case_views(box_filler, cases, scores, STANDARD_PROTOCOLS, worst_count=1, seed=3)
    roles = ["worst 1", "median", "best"]
    assert [view.role for view in views] == roles * 2
    assert [view.score.prompt for view in views] == ["box_5%"] * 3 + ["centre_point"] * 3
    every = np.concatenate(evaluated)
    for boxes in box_filler.boxes:
        assert (every == boxes[0]).all(axis=1).any()
    for view in views:
        assert view.picture.dtype == np.uint8
        assert view.picture.ndim == 3
        # Grey image, coloured outlines.
        assert (view.picture.max(axis=2) != view.picture.min(axis=2)).any()
