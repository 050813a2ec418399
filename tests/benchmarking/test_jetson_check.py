"""`benchmarks/jetson_check.py`, on a machine that need not be a Jetson."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script as a module."""
    return load_script("jetson_check")


def test_a_failing_step_is_in_the_report_and_the_others_run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = {
        "doctor": ["doctor", "--json"],
        "bench": ["bench", "--backend", "nothing"],
        "engines": ["build", "--list", "--json", "--cache", str(tmp_path)],
    }
    monkeypatch.setattr(script, "steps_for", lambda *arguments: chosen)
    report = tmp_path / "report.json"
    with pytest.raises(typer.Exit):
        script.command(output=report, bundle=None, precision=None, frame_size="512x640")
    steps = json.loads(report.read_text())["steps"]
    assert [step["exit_code"] for step in steps.values()] == [0, 2, 0]
    assert steps["doctor"]["result"]["auto"]
    assert "got 'nothing'" in steps["bench"]["messages"]
    assert steps["engines"]["result"]["engines"] == []


def test_a_bundle_and_its_precisions_are_passed_on(script: ModuleType, tmp_path: Path) -> None:
    steps = script.steps_for(tmp_path, ["fp16", "int8"], "480x640")
    build = steps["build and check"]
    assert build[:3] == ["build", "--bundle", str(tmp_path)]
    assert build[3:7] == ["--precision", "fp16", "--precision", "int8"]
    assert "480x640" in steps["bench TensorRT"]
