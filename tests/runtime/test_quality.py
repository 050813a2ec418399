"""What a bundle's calibration makes of masks: by hand, and through every door."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samus_edge.errors import BundleError
from samus_edge.jobs.record import mask_record
from samus_edge.runtime import Bundle, Quality, Segmenter, measure_lesion
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE, Manifest
from samus_edge.runtime.bundle.records import to_json
from samus_edge.runtime.prompts import check_prompts
from samus_edge.runtime.quality import (
    FEATURES,
    QualityCalibration,
    SizeFactors,
    mask_features,
    read_calibration,
)
from tests.conftest import read_example

CALIBRATION = QualityCalibration(
    coefficients={**dict.fromkeys(FEATURES, 0.0), "intercept": -1.0, "has_box": 4.0},
    factors=(
        SizeFactors(0.0, (0.2, 5.0), (0.5, 2.0)),
        SizeFactors(0.8, (0.9, 1.2), (0.95, 1.1)),
    ),
    data={"lesions": 12},
)
GOOD = 1 / (1 + math.exp(-3))  # of a box, by the coefficients above
POOR = 1 / (1 + math.exp(1))  # of points


def test_the_features_of_a_square() -> None:
    """Logits of +-log(9) are probabilities of 0.9 and 0.1; the threshold is at 1."""
    logits = np.full((2, 1, 100, 200), 1 - math.log(9), np.float32)
    logits[0, 0, 40:60, 0:40] = 1 + math.log(9)  # 800 cells, at the left side
    prompts = check_prompts((50, 100), boxes=[[0, 20, 9, 29], [0, 0, 5, 5]])
    square, nothing = mask_features(logits, np.array([[0.8], [0.1]], np.float32), prompts, 1.0)
    assert nothing is None
    assert square is not None
    expected = {
        "predicted_iou": math.log(0.8 / 0.2),
        "certainty": math.log(1440 / (3440 - 1440)),  # Dice 2 * 720 / (800 + 720 + 1920)
        "certainty_inside": math.log(9),
        "has_box": 1,
        "box_iou": 400 / 800,  # 20 x 20 cells of 40 x 20
        "is_corrected": 0,
        "fills_its_box": 1,
        "frame_sides": 1,
    }
    assert square == pytest.approx(list(expected.values()), rel=1e-5)
    assert tuple(expected) == FEATURES


@pytest.mark.parametrize(
    ("prompt", "is_corrected"),
    [
        ({"point_coords": [[[3, 3]]]}, 0),
        ({"point_coords": [[[9, 9], [3, 3]]], "point_labels": [[0, 1]]}, 0),
        ({"point_coords": [[[3, 3], [9, 9]]], "point_labels": [[1, 0]]}, 1),
        ({"boxes": [[1, 1, 8, 8]], "point_coords": [[[3, 3]]]}, 1),
        ({"boxes": [[1, 1, 8, 8]], "mask_input": np.zeros((1, 1, 16, 16))}, 1),
    ],
)
def test_clicks_beyond_the_first_prompt_correct(
    prompt: dict[str, object], is_corrected: int
) -> None:
    logits = np.ones((1, 1, 16, 16), np.float32)
    checked = check_prompts((16, 16), mask_input_hw=(16, 16), **prompt)  # type: ignore[arg-type]
    (found,) = mask_features(logits, np.ones((1, 1), np.float32), checked, 0.0)
    assert found is not None
    assert found[FEATURES.index("is_corrected")] == is_corrected


@pytest.fixture
def judging(disc_bundle: Path, tmp_path: Path) -> Bundle:
    """The bundle of discs with a calibration of its own, read back from its file."""
    bundle = Bundle.open(disc_bundle)
    path = tmp_path / MANIFEST_FILE
    replace(bundle.manifest, quality=to_json(CALIBRATION)).write(path)
    return replace(bundle, manifest=Manifest.read(path))


def test_a_prediction_is_judged(judging: Bundle) -> None:
    image = read_example("benign_80.png")
    with Segmenter(judging, Segmenter.load(threads=1, backend="onnxruntime").backend) as segmenter:
        embedding = segmenter.encode(image)
        boxes = [[100, 50, 300, 250], [150, 80, 350, 300]]
        prediction = segmenter.predict(embedding, boxes=boxes)
        points = segmenter.predict(embedding, point_coords=[[200, 150]])
        several = segmenter.predict(embedding, boxes=boxes[:1], multimask_output=True)
    assert several.quality is None and "quality_unknown" not in {n.code for n in several.notes}
    assert prediction.quality is not None and points.quality is not None
    first, _ = prediction.quality
    assert first.probability == pytest.approx(GOOD)
    assert (first.state, prediction.notes) == ("ok", ())
    (poor,) = points.quality
    assert poor.probability == pytest.approx(POOR)
    assert poor.state == "ask for a click"
    assert [note.code for note in points.notes] == ["low_quality"]
    measured = measure_lesion(prediction.masks[0, 0])
    assert measured is not None
    assert first.area_interval(measured) == pytest.approx(
        (0.9 * measured.area, 1.2 * measured.area)
    )
    record = mask_record(prediction.masks[0, 0], 0.9, None, quality=first).to_json()["quality"]
    assert json.loads(json.dumps(record)) == {
        "probability": pytest.approx(GOOD, abs=1e-4),
        "state": "ok",
        "area_interval": pytest.approx([0.9 * measured.area, 1.2 * measured.area], abs=1e-3),
        "longest_diameter_interval": pytest.approx(
            [0.95 * measured.longest.length, 1.1 * measured.longest.length], abs=1e-3
        ),
    }


@pytest.mark.parametrize(
    ("probability", "state"),
    [(1.0, "ok"), (0.9, "ok"), (0.899, "check"), (0.5, "check"), (0.499, "ask for a click")],
)
def test_states(probability: float, state: str) -> None:
    assert Quality(probability, (1, 1), (1, 1)).state == state


def test_an_empty_mask_is_not_good() -> None:
    empty = CALIBRATION.quality(None)
    assert (empty.probability, empty.state) == (0, "ask for a click")
    assert empty.to_json(None)["area_interval"] is None


def test_later_versions_are_passed_over_and_damage_is_not() -> None:
    recorded = json.loads(json.dumps(to_json(CALIBRATION)))
    assert read_calibration(recorded) == CALIBRATION
    assert read_calibration({"version": 2, "forest": []}) is None
    assert read_calibration({}) is None
    damaged = recorded | {"coefficients": {"intercept": 0.0}, "factors": recorded["factors"][1:]}
    with pytest.raises(BundleError, match=r"coefficients .*has_box.* factors .*\[0\.8\]"):
        read_calibration(damaged)
