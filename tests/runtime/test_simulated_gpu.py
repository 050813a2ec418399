"""Runs the tests of `tests/simulated_gpu` in processes that find the simulated CUDA driver.

In this process TensorRT-RTX builds engines, and would find it as well. So those tests have
processes of their own, with the simulated driver before a real one, and names that pytest does not
collect by itself.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "simulated_gpu"


@pytest.fixture(scope="module")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated driver, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed (Debian and Ubuntu: apt-get install gcc)")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1"]
    source = str(FOLDER / "libcuda.c")
    subprocess.run([compiler, *flags, "-o", str(library), source, "-lpthread", "-ldl"], check=True)
    return folder


def _run(driver_folder: Path, file: str, binding: str) -> None:
    module, extra = ("pycuda", "pycuda") if binding == "pycuda" else ("cuda", "cuda")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{binding} is not installed (pip install 'samus-edge[{extra}]')")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{driver_folder}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "SIM_BINDING": binding,
        "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / file)]
    done = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
@pytest.mark.parametrize("file", ["check_device.py", "check_gpu_script.py"])
def test_devices(driver_folder: Path, binding: str, file: str) -> None:
    _run(driver_folder, file, binding)


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
@pytest.mark.parametrize(
    "file", ["check_tensorrt_session.py", "check_tensorrt_backend.py", "check_device_frame.py"]
)
def test_tensorrt(driver_folder: Path, file: str, binding: str) -> None:
    _run(driver_folder, file, binding)
