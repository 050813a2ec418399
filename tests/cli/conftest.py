"""What tests of the command line share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from samus_edge.cli.app import main
from samus_edge.runtime.bundle import default_bundle_folder


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Path:
    """The bundle that is installed with samus-edge; where there is none yet, a random one."""
    folder = default_bundle_folder()
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
