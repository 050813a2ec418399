"""`benchmarks/gpu.py`, as far as it runs without a GPU."""

import json
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


@pytest.fixture
def script(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module that takes the CPU for a GPU, and compares with nothing."""
    module = load_script("gpu")
    monkeypatch.setattr(module, "list_gpus", list)
    monkeypatch.setattr(module, "GPU_BACKENDS", ("onnxruntime",))
    monkeypatch.setattr(module, "PRECISIONS", ("fp32", "fp16"))  # int8 takes most of a minute
    monkeypatch.setattr(module, "BenchOptions", partial(BenchOptions, rivals=()))
    return module


@pytest.mark.skipif(has_nvidia_driver(), reason="there is an NVIDIA driver; the script would run")
def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--output", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no GPU to measure" in done.stdout
    assert not out.exists()


@pytest.mark.slow
def test_every_step_that_a_cpu_can_do_is_done(script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    script.command(output=out, frames=16, quick=True, vit_b=False)
    steps = json.loads(out.read_text())["steps"]
    assert [name for name, step in steps.items() if "failed" in step] == []
    names = ["doctor", "calibrate"]
    names += [f"check onnxruntime {precision}" for precision in ("fp32", "fp16")]
    assert list(steps) == [*names, "16 frames on onnxruntime", "bench"]
    checked = steps["check onnxruntime fp32"]["result"]
    assert checked["mean_mask_iou"] == 1  # the same engine twice
    assert steps["16 frames on onnxruntime"]["result"]["differing"] == 0
    subjects = {row["subject"] for row in steps["bench"]["result"]["results"]}
    assert subjects == {f"onnxruntime {precision}" for precision in ("fp32", "fp16")}


def test_a_failing_step_is_recorded_and_the_next_one_runs() -> None:
    def fail() -> None:
        raise RuntimeError("no kernel image")

    steps = Steps()
    assert not steps.run("first", fail)
    assert steps.run("second", lambda: 2)
    assert steps.results["first"]["failed"] == "RuntimeError: no kernel image"
    assert steps.results["second"]["result"] == 2
