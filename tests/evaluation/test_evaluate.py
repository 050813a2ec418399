"""Evaluation of a predictor that fills boxes, on lesions that are rectangles."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samus_edge.data.case import read_image
from samus_edge.data.dataset import list_cases
from samus_edge.data.prompt_protocol import CENTRE_POINT, JITTERED_BOX, BoxProtocol, case_generator
from samus_edge.errors import DataError, OutputFileError
from samus_edge.evaluation.evaluate import evaluate, run_evaluation
from samus_edge.evaluation.image_perturbation import frame_size, gaussian_noise
from samus_edge.evaluation.summary import Variant

EXACT_BOX = BoxProtocol(0.0)


def test_every_lesion_is_scored_for_every_prompt(fake_busi: Path, box_filler: Any) -> None:
    report = evaluate(box_filler, list_cases(fake_busi))
    # Five lesion images; one has two lesions; the empty and the normal mask contribute none.
    assert Counter(score.prompt for score in report.scores) == {"box_5%": 6, "centre_point": 6}
    assert [(s.key, s.instance) for s in report.scores if s.prompt == "box_5%"] == [
        ("benign/benign (1)", 0),
        ("benign/benign (2)", 0),
        ("benign/benign (2)", 1),
        ("benign/benign (10)", 0),
        ("malignant/malignant (1)", 0),
        ("malignant/malignant (2)", 0),
    ]


def test_filling_the_exact_box_is_perfect(fake_busi: Path, box_filler: Any) -> None:
    report = evaluate(box_filler, list_cases(fake_busi), protocols=[EXACT_BOX])
    for score in report.scores:
        assert score.dice == score.iou == 1.0
        assert score.hd == score.hd_manhattan == score.hd95 == score.hd_rows == 0.0
        assert score.nsd == 1.0
        assert score.iou_prediction == 0.75
    assert all(summary.dice_interval == (1.0, 1.0) for summary in report.summaries)


def test_finding_nothing_is_scored_as_the_worst(fake_busi: Path, box_filler: Any) -> None:
    cases = list_cases(fake_busi, ["benign/benign (1)"])
    (score,) = evaluate(box_filler, cases, protocols=[CENTRE_POINT]).scores
    assert score.dice == score.iou == 0.0
    assert score.hd == score.hd95 == pytest.approx(255 * 2**0.5)
    assert score.hd_manhattan == 510
    assert score.prompt_coords == "39.50 19.50"  # rows 10:30, columns 20:60
    assert score.hd_rows == 128  # 40 of 80 columns, at 256
    assert score.nsd == 0.0
    # A sixth of the image: 4 A / pi with A = 65536 / 6.
    assert score.diameter_px == pytest.approx((4 * 65536 / 6 / np.pi) ** 0.5)
    assert score.size == "large"


def test_dice_is_measured_at_the_size_of_the_image_and_distances_at_256(
    fake_busi: Path, box_filler: Any
) -> None:
    cases = list_cases(fake_busi, ["benign/benign (1)"])
    (score,) = evaluate(box_filler, cases, protocols=[BoxProtocol(0.2)]).scores
    # The lesion is rows 10:30, columns 20:60 of 60 x 80 pixels.
    x1, y1, x2, y2 = np.rint(box_filler.boxes[0][0])
    filled = (x2 - x1 + 1) * (y2 - y1 + 1)
    shared = (min(x2, 59) - max(x1, 20) + 1) * (min(y2, 29) - max(y1, 10) + 1)
    assert score.dice == pytest.approx(2 * shared / (filled + 40 * 20))
    assert score.iou == pytest.approx(shared / (filled + 40 * 20 - shared))
    assert (score.height, score.width) == (60, 80)
    # In the direction in which two rectangles differ most, a corner is farthest; every edge lands
    # within a pixel of its place.
    left, right = (x1 - 20) * 256 / 80, (59 - x2) * 256 / 80
    top, bottom = (y1 - 10) * 256 / 60, (29 - y2) * 256 / 60
    expected = max(
        np.hypot(max(sign * left, sign * right, 0), max(sign * top, sign * bottom, 0))
        for sign in (1, -1)
    )
    assert expected > 10
    assert score.hd == pytest.approx(expected, abs=2**0.5)


def test_an_image_is_encoded_once_and_its_lesions_are_prompted_together(
    fake_busi: Path, box_filler: Any
) -> None:
    cases = list_cases(fake_busi, ["benign/benign (2)", "normal/normal (1)"])
    evaluate(box_filler, cases)
    assert len(box_filler.encoded) == 1  # nothing to segment in the normal image
    np.testing.assert_array_equal(box_filler.encoded[0], read_image(cases[0]))
    assert [boxes.shape for boxes in box_filler.boxes] == [(2, 4)]
    assert [points.shape for points in box_filler.points] == [(2, 1, 2)]


def test_prompts_do_not_depend_on_the_other_cases_or_protocols(
    fake_busi: Path, box_filler: Any
) -> None:
    cases = list_cases(fake_busi)
    alone = evaluate(box_filler, cases[1:2], protocols=[JITTERED_BOX]).scores
    together = evaluate(box_filler, cases[::-1], protocols=[EXACT_BOX, JITTERED_BOX]).scores
    key = cases[1].key
    assert list(alone) == [s for s in together if s.key == key and s.prompt == "box_5%"]
    rng = case_generator(key, 1, 0)
    offsets = rng.uniform(-1.0, 1.0, size=4) * 0.05 * [20, 10, 20, 10]
    expected = np.array([5, 40, 24, 49]) + offsets
    assert alone[1].prompt_coords == " ".join(f"{value:.2f}" for value in expected)
    other = evaluate(box_filler, cases[1:2], protocols=[JITTERED_BOX], seed=1).scores
    assert other[1].prompt_coords != alone[1].prompt_coords


def test_perturbed_images_are_scored_at_the_original_size(fake_busi: Path, box_filler: Any) -> None:
    cases = list_cases(fake_busi, ["benign/benign (1)"])
    double = Variant((EXACT_BOX,), frame_size(160, 120))
    report = evaluate(box_filler, cases, variants=[double])
    (score,) = [score for score in report.scores if score.image == "frame_160x120"]
    assert box_filler.encoded[1].shape == (120, 160)
    # Columns 20 to 59 and rows 10 to 29: their centres in an image twice as large.
    assert score.prompt_coords == "40.50 20.50 118.50 58.50"
    assert (score.height, score.width) == (60, 80)
    # The filler rounds to even: columns 40 to 118 and rows 20 to 58, which is half a pixel short on
    # two sides; half a pixel is not enough to be marked.
    assert score.dice == pytest.approx(2 * 39 * 19 / (39 * 19 + 40 * 20))
    assert [summary.prompt for summary in report.summaries if summary.size == "all"] == [
        *("box_5%", "box_5%", "centre_point", "centre_point")
    ]


def test_perturbations_are_the_same_in_every_run_and_in_all_strengths(
    fake_busi: Path, box_filler: Any
) -> None:
    cases = list_cases(fake_busi, ["benign/benign (1)"])
    noises = [Variant((EXACT_BOX,), gaussian_noise(sigma)) for sigma in (2.0, 4.0)]
    for _ in range(2):
        evaluate(box_filler, cases, variants=noises)
    first, second = box_filler.encoded[:3], box_filler.encoded[3:]
    np.testing.assert_array_equal(first, second)
    image, weak, strong = (encoded.astype(float) for encoded in first)
    inside = (strong > 0) & (strong < 255)
    np.testing.assert_allclose((strong - image)[inside], 2 * (weak - image)[inside], atol=1.5)


def test_near_duplicates_share_a_group(fake_busi: Path, box_filler: Any) -> None:
    groups = {"benign/benign (1)": 0, "benign/benign (10)": 0}
    report = evaluate(box_filler, list_cases(fake_busi), protocols=[EXACT_BOX], groups=groups)
    of_key = {score.key: score.group for score in report.scores}
    assert of_key["benign/benign (1)"] == of_key["benign/benign (10)"]
    assert len(set(of_key.values())) == 4


def test_raises_when_it_cannot_evaluate(fake_busi: Path, box_filler: Any) -> None:
    with pytest.raises(DataError, match="None of the 1 cases has a lesion"):
        evaluate(box_filler, list_cases(fake_busi, ["normal/normal (1)"]))
    with pytest.raises(ValueError, match="at least one kind of prompt"):
        evaluate(box_filler, list_cases(fake_busi), protocols=[])
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        evaluate(box_filler, list_cases(fake_busi), seed=-1)


def test_files_hold_summaries_and_scores(fake_busi: Path, box_filler: Any, tmp_path: Path) -> None:
    report = evaluate(box_filler, list_cases(fake_busi), seed=7, about={"data": "BUSI"})
    page, rows = tmp_path / "page.html", tmp_path / "rows.csv"
    report.write(tmp_path / "report.json", rows, also={page: b"<p>"})
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["format"] == "samus-edge-evaluation"
    assert (document["data"], document["seed"]) == ("BUSI", 7)
    assert document["summaries"][0]["dice"]["worst"] == report.summaries[0].dice.worst
    assert (document["robustness"], document["normals"]) == ([], [])
    with rows.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["key"] for row in found] == [score.key for score in report.scores]
    for row, score in zip(found, report.scores, strict=True):
        assert float(row["dice"]) == pytest.approx(score.dice, rel=1e-5)
        assert row["prompt_coords"] == score.prompt_coords
    assert page.read_bytes() == b"<p>"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputFileError, match=r"nowhere"):
        report.write(tmp_path / "other", tmp_path / "nowhere" / "rows", also={page: b"new"})
    assert page.read_bytes() == b"<p>" and sorted(tmp_path.iterdir()) == before


def test_by_default_lesions_and_normal_images_are_evaluated(
    fake_busi: Path, box_filler: Any
) -> None:
    cases, seen = list_cases(fake_busi), []
    report = run_evaluation(box_filler, cases, on_case=lambda case: seen.append(case.key))
    assert sorted(seen) == sorted(case.key for case in cases)
    assert len(box_filler.encoded) == 6
    assert [summary.prompt for summary in report.normals] == ["typical_box", "image_centre"]
    assert (report.robustness, report.views) == ((), ())


def test_parts_can_be_left_out_and_added(fake_busi: Path, box_filler: Any) -> None:
    cases = list_cases(fake_busi, ["benign/benign (1)", "normal/normal (1)"])
    report = run_evaluation(box_filler, cases, normals=False, robustness=True, worst_count=5)
    assert report.normals == ()
    assert len(report.robustness) > 50
    assert {summary.prompt for summary in report.summaries} == {"box_5%", "centre_point"}
    assert len(report.views) == 2


def test_all_that_is_wrong_is_named(fake_busi: Path, box_filler: Any) -> None:
    cases = list_cases(fake_busi)
    with pytest.raises(ValueError) as caught:
        run_evaluation(box_filler, cases, protocols=(EXACT_BOX,), worst_count=-1, seed=-2)
    for part in ("include box_5%", "include centre_point", "got -1", "got -2"):
        assert part in str(caught.value)
