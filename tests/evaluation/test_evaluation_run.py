"""A whole evaluation has the parts that were asked for."""

from pathlib import Path
from typing import Any

import pytest

from samus_edge.data.dataset import list_cases
from samus_edge.data.prompt_protocol import BoxProtocol
from samus_edge.evaluation.evaluation_run import EvaluationSettings, run_evaluation


def test_by_default_lesions_and_normal_images_are_evaluated(
    fake_busi: Path, box_filler: Any
) -> None:
    cases, seen = list_cases(fake_busi), []
    result = run_evaluation(
        box_filler, cases, EvaluationSettings(), on_case=lambda case: seen.append(case.key)
    )
    assert sorted(seen) == sorted(case.key for case in cases)
    assert len(box_filler.encoded) == 6
    assert [summary.prompt for summary in result.report.normals] == ["typical_box", "image_centre"]
    assert (result.report.robustness, result.views) == ((), ())


def test_parts_can_be_left_out_and_added(fake_busi: Path, box_filler: Any) -> None:
    cases = list_cases(fake_busi, ["benign/benign (1)", "normal/normal (1)"])
    settings = EvaluationSettings(normals=False, robustness=True, pictures=True)
    result = run_evaluation(box_filler, cases, settings)
    assert result.report.normals == ()
    assert len(result.report.robustness) > 50
    assert {summary.prompt for summary in result.report.summaries} == {"box_5%", "centre_point"}
    assert len(result.views) == 2


def test_all_that_is_wrong_with_settings_is_named() -> None:
    with pytest.raises(ValueError) as caught:
        EvaluationSettings(protocols=(BoxProtocol(0.0),), worst_count=-1, seed=-2)
    for part in ("include box_5%", "include centre_point", "got -1", "got -2"):
        assert part in str(caught.value)
