"""The example images fit their masks and boxes, and the example scripts run."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.runtime.bundle import default_bundle_folder

REPOSITORY = Path(__file__).parents[1]
EXAMPLES_DIR = REPOSITORY / "examples"
PROMPTS: dict[str, list[int]] = json.loads((EXAMPLES_DIR / "prompts.json").read_text())

# A mask below this is visibly wrong on these images; how accurate the model is, is measured on the
# whole test subset instead.
LEAST_PLAUSIBLE_DICE = 0.75


@pytest.mark.parametrize("name", PROMPTS)
def test_the_box_is_drawn_closely_around_the_mask(name: str) -> None:
    image = cv2.imread(str(EXAMPLES_DIR / name), cv2.IMREAD_UNCHANGED)
    mask_path = EXAMPLES_DIR / name.replace(".png", "_mask.png")
    mask = cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED)
    assert image is not None and mask is not None
    assert image.shape == mask.shape
    assert set(np.unique(mask)) == {0, 255}
    rows, columns = np.nonzero(mask)
    x1, y1, x2, y2 = PROMPTS[name]
    assert 0 <= columns.min() - x1 <= 10 and 0 <= rows.min() - y1 <= 10
    assert 0 <= x2 - columns.max() <= 10 and 0 <= y2 - rows.max() <= 10


def test_readme_and_makefile_use_the_same_boxes() -> None:
    readme = (EXAMPLES_DIR / "README.md").read_text(encoding="utf-8")
    boxes = {name: ",".join(str(value) for value in box) for name, box in PROMPTS.items()}
    for name, box in boxes.items():
        assert f"`{name}`" in readme
        assert box in readme
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert f"EXAMPLE_BOX := {boxes['benign_80.png']}\n" in makefile


def test_segment_and_score_prints_a_plausible_dice_for_each_image() -> None:
    if not default_bundle_folder().is_dir():
        pytest.skip(f"this checkout has no default bundle in {default_bundle_folder()}")
    command = [sys.executable, "-I", str(EXAMPLES_DIR / "segment_and_score.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()[1:]
    scores = {line.split()[0]: float(line.split()[2]) for line in lines}
    assert scores.keys() == PROMPTS.keys()
    assert min(scores.values()) >= LEAST_PLAUSIBLE_DICE, scores


@pytest.mark.parametrize("script", ["cold_start.py", "cpu_latency.py"])
def test_benchmarks_explain_themselves(script: str) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / script), "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "output" in ran.stdout
