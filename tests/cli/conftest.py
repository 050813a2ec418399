"""What tests of the command line share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest

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
