"""The runtime's public names, and what importing and running it brings along."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOT_IN_THE_BASE_INSTALL = ("torch", "torchvision", "onnx", "pywt", "safetensors", "yaml", "scipy")
BINDINGS = ("backends.gpu.cuda_python_device", "backends.gpu.pycuda_device")
"""Modules that are imported where their package is installed."""


def loaded_after(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running some code."""
    script = f"{code}\nimport sys\nprint('LOADED', *sorted(m for m in sys.modules if '.' not in m))"
    # -I: the checkout's own folder must not shadow the installed package.
    command = [sys.executable, "-I", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED ")[2].split())


def test_importing_the_runtime_brings_numpy_alone() -> None:
    loaded = loaded_after("import samus_edge.runtime")
    assert "numpy" in loaded
    for name in (*NOT_IN_THE_BASE_INSTALL, "cv2", "onnxruntime", "typer"):
        assert name not in loaded


def test_every_module_of_the_runtime_does_without_torch() -> None:
    folder = REPOSITORY / "runtime"
    paths = sorted(path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py"))
    names = [".".join(path.parts) for path in paths if path.name != "__init__"]
    imports = [f"samus_edge.runtime.{name}" for name in names if name not in BINDINGS]
    assert len(imports) > 20
    loaded = loaded_after(f"import importlib\nfor m in {imports}: importlib.import_module(m)")
    assert {"numpy", "onnxruntime"} <= loaded
    for name in NOT_IN_THE_BASE_INSTALL:
        assert name not in loaded


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_segmenting_does_without_torch(disc_bundle: Path, tmp_path: Path, form: str) -> None:
    bundle = str(disc_bundle)
    if form == "zip":
        bundle = shutil.make_archive(str(tmp_path / "discs"), "zip", disc_bundle)
    code = (
        "import sys, numpy as np\n"
        "from samus_edge.runtime import Segmenter\n"
        "with Segmenter.load(sys.argv[1], threads=1) as segmenter:\n"
        "    image = np.zeros((30, 40, 3), np.uint8)\n"
        "    assert segmenter.segment(image, boxes=[[5, 5, 20, 20]]).masks.any()\n"
    )
    loaded = loaded_after(code, bundle)
    assert "onnxruntime" in loaded
    for name in NOT_IN_THE_BASE_INSTALL:
        assert name not in loaded
    assert ("zipfile" in loaded) == (form == "zip")  # a folder opens without its cost
