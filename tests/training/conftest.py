"""A small model with the real interface, a few cases that can be learned, trainings that end
anyhow."""

import importlib.util
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samus_edge.data.case import UltrasoundCase
from samus_edge.modeling.samus_hf import SamusHF

PROGRAM = Path(__file__).with_name("small_training.py")


@pytest.fixture(scope="session")
def small_training() -> Any:
    """The module `small_training`, which lies beside this file and is a program as well."""
    spec = importlib.util.spec_from_file_location("small_training", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_small_model(small_training: Any) -> Callable[..., SamusHF]:
    """Makes a model with 16-dimensional embeddings, always with the same random weights."""
    make: Callable[..., SamusHF] = small_training.small_model
    return make


@pytest.fixture(scope="session")
def bright_cases(
    small_training: Any, tmp_path_factory: pytest.TempPathFactory
) -> list[UltrasoundCase]:
    """Five cases in BUSI's layout: a bright ellipse, which is the lesion, in dark noise."""
    root: Path = tmp_path_factory.mktemp("bright") / "Dataset"
    cases: list[UltrasoundCase] = small_training.write_bright_cases(root, lesions=5)
    return cases


@pytest.fixture(scope="session")
def normal_cases(
    small_training: Any, tmp_path_factory: pytest.TempPathFactory
) -> list[UltrasoundCase]:
    """Two cases of dark noise without a lesion."""
    root: Path = tmp_path_factory.mktemp("normal") / "Dataset"
    cases: list[UltrasoundCase] = small_training.write_bright_cases(root, lesions=0, normals=2)
    return cases


@pytest.fixture(scope="session")
def run_scenarios() -> Callable[..., tuple[list[int], str]]:
    """Runs scenarios of the program `small_training`; their exit codes, and what stderr said."""

    def run(*scenarios: dict[str, Any]) -> tuple[list[int], str]:
        result = subprocess.run(
            [sys.executable, str(PROGRAM), json.dumps(scenarios)],
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
