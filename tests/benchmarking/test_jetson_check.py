"""`benchmarks/jetson_check.py`, on a machine that need not be a Jetson."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "jetson_check.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("jetson_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "jetson_check", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


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
