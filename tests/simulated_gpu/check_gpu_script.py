"""`benchmarks/gpu.py`, and the checks of the device layer that it begins with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from samus_edge.benchmarking.device_checks import CHECKS, DeviceCheckError, lost_device
from samus_edge.runtime.backends.gpu.device import Device
from simulated_driver import SimulatedDriver

ROOT = Path(__file__).parents[2]
OF_TORCH = ["frames_of_torch", "tensors_for_torch", "lost_device"]
OF_THE_DRIVER = [name for name in CHECKS if name not in OF_TORCH]


def _run(out: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """The steps in the result file of a call; from another folder, with the package beside it."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--output", str(out)]
    subprocess.run(
        [*command, "--work", str(out.parent / "work"), "--frames", "4", "--quick", *arguments],
        check=True,
        cwd=out.parent,
        stdout=subprocess.DEVNULL,
    )
    steps: dict[str, dict[str, Any]] = json.loads(out.read_text())["steps"]
    return steps


@pytest.mark.skipif(os.environ["SIM_BINDING"] != "cuda-python", reason="is what a GPU machine has")
def test_device_checks_come_first_and_a_second_call_does_what_is_left(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    first = _run(out, "--only", "device", "--minutes", "0.4")
    assert list(first) == [f"device {name}" for name in CHECKS]
    assert "result" in first["device allocation"]
    second = _run(out, "--only", "device")
    assert [name for name in OF_THE_DRIVER if "result" not in second[f"device {name}"]] == []
    # PyTorch has no GPU here, and says so.
    assert [name for name in OF_TORCH if "failed" not in second[f"device {name}"]] == []
    assert second["device allocation"] == first["device allocation"]  # not done again


def test_steps_that_need_others_say_so(tmp_path: Path) -> None:
    steps = _run(tmp_path / "gpu.json", "--only", "targets")
    assert steps == {"targets": {"left_out": "needs bench, check tensorrt fp16"}}


def test_a_lost_gpu_is_known_by_what_it_says(device: Device, driver: SimulatedDriver) -> None:
    with pytest.raises(DeviceCheckError, match="a lost GPU says"):
        lost_device(device, lambda _: None)
    found = lost_device(device, lambda _: driver.lose_after(0))
    assert "lost to this process" in str(found["said"])
