"""Cases that can be learned by a small model, trainings that end anyhow, and how to compare."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samus_edge.data.case import UltrasoundCase
from tests.training import small_training


@pytest.fixture(scope="session")
def bright_cases(tmp_path_factory: pytest.TempPathFactory) -> list[UltrasoundCase]:
    """Five cases in BUSI's layout: a bright ellipse, which is the lesion, in dark noise."""
    return small_training.write_bright_cases(tmp_path_factory.mktemp("bright") / "Data", lesions=5)


@pytest.fixture(scope="session")
def normal_cases(tmp_path_factory: pytest.TempPathFactory) -> list[UltrasoundCase]:
    """Two cases of dark noise without a lesion."""
    root: Path = tmp_path_factory.mktemp("normal") / "Data"
    return small_training.write_bright_cases(root, lesions=0, normals=2)


@pytest.fixture(scope="session")
def run_scenarios() -> Callable[..., tuple[list[int], str]]:
    """Runs scenarios of the program `small_training`; their exit codes, and what stderr said."""

    def run(*scenarios: dict[str, Any]) -> tuple[list[int], str]:
        result = subprocess.run(
            [sys.executable, small_training.__file__, json.dumps(scenarios)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        codes: list[int] = json.loads(result.stdout)
        return codes, result.stderr

    return run


@pytest.fixture(scope="session")
def tensorboard_events() -> Callable[[Path], list[Any]]:
    """Reads the events of all files in a folder, in order; skips without tensorboardX."""
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    from tensorboardX.proto.event_pb2 import Event

    def read(folder: Path) -> list[Any]:
        found = []
        for path in sorted(folder.iterdir()):
            content, position = path.read_bytes(), 0
            while position < len(content):  # length, its checksum, the event, its checksum
                (length,) = struct.unpack_from("<Q", content, position)
                found.append(Event.FromString(content[position + 12 : position + 12 + length]))
                position += 12 + length + 4
        return found

    return read
