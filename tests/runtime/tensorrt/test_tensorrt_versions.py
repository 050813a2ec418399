"""Versions of TensorRT that are known to be wrong."""

import logging

import pytest

from samus_edge.errors import BackendError
from samus_edge.runtime.tensorrt.tensorrt_versions import known_problem, refuse_known_problem


@pytest.mark.parametrize(
    ("version", "capability", "precision", "is_bad"),
    [
        ("10.3.0.30", "8.7", "fp32", True),
        ("10.4.0", "8.6", "fp16", True),
        ("10.3", "8.7", "fp32", True),
        ("10.5.0", "8.7", "fp32", False),
        ("10.30.0", "8.7", "fp32", False),
        ("10.16.1.11", "12.0", "fp32", True),
        ("10.16.1.11", "8.9", "fp32", False),
        ("10.16.10", "12.0", "fp32", False),
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
