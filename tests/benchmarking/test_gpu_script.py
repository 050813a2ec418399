"""`benchmarks/gpu.py`, as far as it runs without a GPU."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from samus_edge.benchmarking.bench_run import BenchOptions
from samus_edge.benchmarking.recipe import Steps
from samus_edge.runtime.backends.gpu.device import has_nvidia_driver

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.skipif(has_nvidia_driver(), reason="there is an NVIDIA driver; the script would run")
def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--output", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no GPU to measure" in done.stdout
    assert not out.exists()


@pytest.mark.slow
def test_the_steps_give_what_a_cpu_can_give(
    load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the CPU for a GPU, and nothing to compare with."""
    script = load_script("gpu")
    monkeypatch.setattr(script, "GPU_BACKENDS", ("onnxruntime",))
    monkeypatch.setattr(script, "PRECISIONS", ("fp32", "fp16"))  # int8 takes most of a minute
    options = partial(BenchOptions, rivals=(), backends=("onnxruntime",))
    monkeypatch.setattr(script, "BenchOptions", options)
    every, done = script.steps(16, quick=True), Steps()
    names = ["doctor", "check onnxruntime fp32", "calibrate", "check onnxruntime fp16", "bench"]
    for name in [*names, "16 frames on onnxruntime"]:
        assert done.run(name, partial(every[name].work, tmp_path, done.results)), done.results[name]
    assert done.results["check onnxruntime fp32"]["result"]["mean_mask_iou"] == 1  # twice the same
    assert done.results["16 frames on onnxruntime"]["result"]["differing"] == 0
    subjects = {row["subject"] for row in done.results["bench"]["result"]["results"]}
    assert subjects == {f"onnxruntime {precision}" for precision in ("fp32", "fp16")}
    assert every["targets"].needs == ("bench", "check tensorrt fp16")


def test_a_step_that_takes_too_long_is_ended(
    load_script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    options = ["--output", str(tmp_path / "gpu.json")]
    outcome = load_script("gpu").run_step("doctor", tmp_path, 0.3, options)
    assert outcome["failed"] == "not done after 0 seconds"
    assert outcome["seconds"] < 5


def test_a_failing_step_is_recorded_and_the_next_one_runs() -> None:
    def fail() -> None:
        raise RuntimeError("no kernel image")

    steps = Steps()
    assert not steps.run("first", fail)
    assert steps.run("second", lambda: 2)
    assert steps.results["first"]["failed"] == "RuntimeError: no kernel image"
    assert steps.results["second"]["result"] == 2
