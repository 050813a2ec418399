"""`samus-edge track`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samus_edge.benchmarking.synthetic_cine import CineMotion, synthetic_cine
from samus_edge.jobs.track_cine import OverlayVideo
from samus_edge.runtime.measurement.lesion_measurements import box_around

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A video in which a dark disc moves, and vanishes at the end for good; and its box."""
    y, x = np.mgrid[:240, :320]
    mask = np.hypot(x - 150, y - 110) < 45
    texture = cv2.GaussianBlur(
        np.random.default_rng(0).integers(60, 200, (240, 320)).astype(np.float32), (0, 0), 3
    )
    image = np.where(mask, 25, texture).astype(np.uint8)
    motion = CineMotion(frames=24, period=48, travel=0.05, hidden=(16, 99))
    frames = list(synthetic_cine(image, mask, motion))
    path = tmp_path_factory.mktemp("cine") / "cine.avi"
    with OverlayVideo(path, 15) as video:
        for frame in frames:
            video.write(np.repeat(frame.image[..., None], 3, axis=2))
    box = box_around(frames[0].mask)
    assert box is not None
    return path, ",".join(f"{value:g}" for value in box)


def test_a_lesion_that_is_lost_at_the_end_is_exit_code_1_and_all_is_written(
    run: Run, cine: tuple[Path, str], tmp_path: Path
) -> None:
    path, box = cine
    out, table = tmp_path / "out.mp4", tmp_path / "t.csv"
    arguments = ("track", "--video", path, "--box", box, "--spacing", "0.2", "--threads", 1)
    outcome = run(*arguments, "--out", out, "--csv", table, "--json")
    assert (outcome.exit_code, outcome.stderr) == (1, "")
    found = json.loads(outcome.stdout)
    assert found["is_lost"] is True
    assert sum(found["states"].values()) == len(found["frames"]) == 24
    first, last = found["frames"][0], found["frames"][-1]
    assert first["state"] == "tracking"
    assert first["measurements"]["unit"] == "mm"
    assert first["measurements"]["width"] == pytest.approx(18, rel=0.15)  # 90 pixels of 0.2 mm
    assert (last["state"], last["measurements"]) == ("lost", None)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert float(rows[0]["area"]) == first["measurements"]["area"]
    assert (rows[-1]["area"], rows[-1]["x1"]) == ("", "")
    video = cv2.VideoCapture(str(out))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 24
    video.release()


def test_the_lines_say_what_became_of_the_lesion(
    run: Run, cine: tuple[Path, str], disc_bundle: Path
) -> None:
    path, box = cine
    arguments = ("track", "--video", path, "--box", box, "--bundle", disc_bundle)
    outcome = run(*arguments, "--from-frame", 2, "--frames", 3)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith(f"{path}: 3 frames: 3 tracking\n  from frame 2: tracking\n")
    outcome = run(*arguments)
    assert outcome.exit_code == 1
    assert "from frame 16: lost: " in outcome.stdout
    assert "the lesion was lost: mark it again" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--box", "1,2,3"), 2, "has 3 numbers"),
        (("--box", "900,900,950,950"), 2, "outside the image"),
        (("--box", "1,1,50,50", "--from-frame", "24"), 2, "there is no frame 24"),
        (("--box", "1,1,50,50", "--out", "x.gif"), 2, "ending in .mp4 or .avi"),
        (("--box", "1,1,50,50", "--csv", "nowhere/x.csv"), 1, "does not exist"),
        (("--box", "1,1,50,50", "--spacing", "0"), 2, "positive numbers"),
        (("--box", "1,1,50,50", "--bundle", "nowhere"), 1, "nowhere does not exist"),
    ],
)
def test_bad_arguments_are_one_line(
    run: Run, cine: tuple[Path, str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    outcome = run("track", "--video", cine[0], *arguments)
    assert outcome.exit_code == code
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
