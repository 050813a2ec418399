"""What a machine says of itself."""

import os
from pathlib import Path

import numpy as np
import pytest

from samus_edge.runtime.diagnosis.host_facts import (
    PACKAGES,
    cpu_features,
    cpu_model,
    memory_bytes,
    package_versions,
)

_X86 = """processor\t: 0
model name\t: Example CPU @ 3.00GHz
flags\t\t: fpu sse2 avx2 avx512_vnni avx512f
"""
_ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm sve
CPU part\t: 0xd42
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system without anything but an empty /proc."""
    (tmp_path / "proc").mkdir()
    return tmp_path


def test_an_x86_processor(root: Path) -> None:
    (root / "proc" / "cpuinfo").write_text(_X86)
    assert cpu_model(root) == "Example CPU @ 3.00GHz"
    assert cpu_features(root) == ("avx2", "avx512f", "avx512_vnni")


def test_an_arm_processor(root: Path) -> None:
    (root / "proc" / "cpuinfo").write_text(_ARM)
    assert cpu_model(root) != ""
    assert cpu_features(root) == ("asimddp", "i8mm", "sve")


def test_a_system_without_cpuinfo(root: Path) -> None:
    assert cpu_model(root) != ""
    assert cpu_features(root) == ()


def test_memory_is_the_machines() -> None:
    found = memory_bytes()
    assert found is not None
    assert found % os.sysconf("SC_PAGE_SIZE") == 0
    assert found > 1 << 28


def test_versions_are_those_that_are_imported() -> None:
    versions = package_versions()
    assert tuple(versions) == PACKAGES
    assert versions["numpy"] == np.__version__
    assert versions["onnxruntime-gpu"] is None
