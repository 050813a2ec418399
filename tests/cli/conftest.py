"""What tests of the command line share."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from samus_edge.cli.app import main
from samus_edge.runtime.bundle.bundle import default_bundle_path


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Path:
    """The bundle that is installed with samus-edge; where there is none yet, a random one."""
    folder = default_bundle_path()
    if folder.is_dir():
        return folder
    random_bundle: Path = request.getfixturevalue("random_bundle")
    return random_bundle


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command line in this process."""

    def run_command(*arguments: object) -> Outcome:
        capsys.readouterr()
        exit_code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    return run_command


@pytest.fixture(scope="session")
def frame(asset_frames: list[Any]) -> Any:
    """A real frame of 384 x 384 pixels or so, with its lesion's box."""
    return next(frame for frame in asset_frames if frame.image.shape == (384, 384))


@pytest.fixture
def image(frame: Any, tmp_path: Path) -> Path:
    """The frame as a file in a folder of its own."""
    path = tmp_path / "image.png"
    assert cv2.imwrite(str(path), frame.image)
    return path


@pytest.fixture
def box(frame: Any) -> str:
    """The lesion's box as the option takes it."""
    return ",".join(f"{value:g}" for value in frame.box)


@pytest.fixture
def two_datasets(fake_busi: Path, fake_split: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of two datasets, and a configuration that trains a step or two on both.

    `busi` has a split file; `discs` has images/ with masks/ and a rule: three to train on, one to
    validate on, two to test on.
    """
    root = tmp_path / "data"
    shutil.copytree(fake_busi, root / "busi")
    shutil.copy(fake_split, root / "split.json")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / "discs" / folder).mkdir(parents=True)
    for number in range(1, 7):
        picture = cv2.resize(rng.integers(0, 256, (8, 8)).astype(np.uint8), (64, 64))
        mask = cv2.circle(np.zeros((64, 64), np.uint8), (30, 20 + 4 * number), 12, 255, -1)
        assert cv2.imwrite(str(root / "discs" / "images" / f"{number}.png"), picture)
        assert cv2.imwrite(str(root / "discs" / "masks" / f"{number}.png"), mask)
    settings = {
        "start": "default",
        "epochs": 1,
        "batch_size": 2,
        "precision": "fp32",
        "prompts": {"refine_probability": 0.0, "several_clicks_probability": 0.0},
        "datasets": [
            {"folder": "busi", "weight": 2, "split": "split.json"},
            {"folder": "discs", "test": "^[56]$", "fractions": [0.75, 0.25, 0]},
        ],
    }
    config = tmp_path / "two.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return root, config
