"""Versions of TensorRT that are known to be wrong."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from samus_edge.errors import BackendError
from samus_edge.runtime.backends.tensorrt.tensorrt_library import (
    TENSORRT_FLAVOURS,
    find_tensorrt,
    known_problem,
    refuse_known_problem,
)


@pytest.mark.parametrize(
    ("version", "capability", "precision", "is_bad"),
    [
        ("10.3.0.30", "8.7", "fp32", True),
        ("10.4.0", "8.6", "fp16", True),
        ("10.3", "8.7", "fp32", True),
        ("10.5.0", "8.7", "fp32", False),
        ("10.7.0.23", "8.9", "fp32", True),
        ("10.8.0", "8.9", "fp16", False),
        ("10.30.0", "8.7", "fp32", False),
        ("10.16.1.11", "12.0", "fp16", True),
        ("10.16.1.11", "12.0", "int8", True),
        ("10.16.1.11", "12.0", "fp32", False),
        ("10.9.0.34", "12.0", "fp16", True),
        ("10.16.2", "12.0", "fp16", False),
        ("10.16.1.11", "8.9", "fp32", False),
        ("10.16.10", "12.0", "fp16", False),
        ("10.13.3.9", "11.0", "fp16", True),
        ("10.13.3.9", "11.0", "fp32", False),
        ("10.13.3.9", "8.7", "fp16", False),
        ("10.13.3.9", None, None, True),
        ("11.0.0", "12.0", "fp16", False),
    ],
)
def test_the_table(
    version: str, capability: str | None, precision: str | None, is_bad: bool
) -> None:
    problem = known_problem("tensorrt", version, capability, precision)
    assert (problem is not None) == is_bad
    assert problem is None or f"TensorRT {version} " in problem
    assert known_problem("tensorrt_rtx", version, capability, precision) is None


def test_a_bad_version_is_refused_unless_forced(caplog: pytest.LogCaptureFixture) -> None:
    refuse_known_problem("tensorrt", "10.9.0", "8.7", "fp32")
    with pytest.raises(BackendError, match=r"JetPack 6\.1 and 6\.2 come with 10\.3"):
        refuse_known_problem("tensorrt", "10.3.0", "8.7", "fp32")
    with caplog.at_level(logging.WARNING):
        refuse_known_problem("tensorrt", "10.3.0", "8.7", "fp32", force=True)
    assert "because that was forced" in caplog.text


def test_the_container_for_a_jetson_has_a_version_that_is_taken(tmp_path: Path) -> None:
    """What the file says of its base; and its own check, run as it stands there, on 10.3."""
    text = (Path(__file__).parents[4] / "docker" / "jetson" / "Dockerfile").read_text("utf-8")
    said = re.search(r"has TensorRT ([\d.]+\d)\.\nARG BASE=(\S+)", text)
    assert said is not None
    for capability in ("8.7", "11.0"):
        assert known_problem("tensorrt", said[1], capability) is None
    check = re.search(r'bin/python -c "(.+?)"\n', text, re.DOTALL)
    assert check is not None
    for version, code in ((said[1], 0), ("10.3.0.30", 1)):
        metadata = tmp_path / f"tensorrt-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: tensorrt\nVersion: {version}\n")
        done = subprocess.run(
            [sys.executable, "-c", check[1].replace("\\\n", "")],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        shutil.rmtree(metadata)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a module importable under a flavour's name; the others are not installed."""
    for flavour in TENSORRT_FLAVOURS:
        monkeypatch.setitem(sys.modules, flavour, None)
    monkeypatch.syspath_prepend(tmp_path)

    def write(flavour: str, code: str) -> None:
        (tmp_path / f"{flavour}.py").write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, flavour)

    return write


def test_nothing_installed_says_how_to_get_either(install: Callable[[str, str], None]) -> None:
    with pytest.raises(BackendError, match=r"JetPack.*pip install 'samus-edge\[tensorrt-rtx\]'"):
        find_tensorrt()


@pytest.mark.parametrize("flavour", TENSORRT_FLAVOURS)
def test_a_missing_flavour_is_named(install: Callable[[str, str], None], flavour: str) -> None:
    with pytest.raises(BackendError, match=rf"module {flavour}\) is not installed.*pip install"):
        find_tensorrt(flavour)


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        (TENSORRT_FLAVOURS, "tensorrt"),
        (("tensorrt",), "tensorrt"),
        (("tensorrt_rtx",), "tensorrt_rtx"),
    ],
)
def test_auto_takes_what_is_there(
    install: Callable[[str, str], None], installed: tuple[str, ...], found: str
) -> None:
    for flavour in installed:
        install(flavour, "__version__ = '11.4.0'")
    library = find_tensorrt()
    assert (library.flavour, library.version) == (found, "11.4.0")
    assert library.module.__name__ == found


def test_one_that_cannot_be_loaded_says_why(install: Callable[[str, str], None]) -> None:
    install("tensorrt", "raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    with pytest.raises(BackendError, match=r"cannot be loaded \(libnvinfer\.so\.10.*again"):
        find_tensorrt()


def test_one_that_is_too_old_is_refused(install: Callable[[str, str], None]) -> None:
    install("tensorrt", "__version__ = '8.6.2'")
    with pytest.raises(BackendError, match=r"TensorRT 8\.6\.2 is too old: version 10"):
        find_tensorrt("tensorrt")


def test_an_unknown_flavour_is_refused() -> None:
    with pytest.raises(ValueError, match="flavour must be one of auto, tensorrt, tensorrt_rtx"):
        find_tensorrt("tensorflow")
